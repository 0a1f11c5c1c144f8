"""Workers of queues that hammer a pool: they sit, are handed jobs, ask for popped ones, die with what they had."""

from __future__ import annotations

import os
from typing import Any

import redis

from broker import Lease, answers, calls, crew
from broker.crew import Seat
from tests.proof.hammer import HOSTS, Orders, Worker

QUEUES = ("q0", "q1", "q2")


class Starter(Worker):
    """One worker after the other, each of one or two queues of a host."""

    def __init__(self, orders: Orders) -> None:
        """Nobody sits yet."""
        super().__init__(orders)
        # What takes minutes in a pool should happen often here.
        crew.SEAT_SECONDS, crew.LIFE_SECONDS = 1.0, 2.0
        self.held: list[Lease] = []
        self.numbers = 0
        self.seat = self.hire()

    def hire(self) -> Seat:
        """Another worker; the one before is gone without a word."""
        self.numbers += 1
        name = f"{self.orders.name}-{os.getpid()}-{self.numbers}"
        queues = self.dice.sample(QUEUES, self.dice.choice((1, 1, 2)))
        return Seat(self.broker, name, self.dice.choice(tuple(HOSTS)), queues)

    def step(self) -> None:
        """One act, drawn by lot."""
        acts = [self.sit, self.sit, self.look, self.rise, self.ask, self.ask, self.ask, self.hear, self.hear]
        if self.held:
            acts += [self.give_back] * 4
        if self.dice.random() < 0.01:
            self.seat = self.hire()
        self.dice.choice(acts)()
        if len(self.held) > 4:
            self.give_back()

    def sit(self) -> None:
        """Wait for what is handed over."""
        self.take(self.attempt(self.seat.sit))

    def look(self) -> None:
        """Between two jobs."""
        self.take(self.attempt(self.seat.look))

    def rise(self) -> None:
        """At work."""
        self.take(self.attempt(self.seat.rise))

    def hear(self) -> None:
        """The hint that was pushed; sometimes it is lost with whom it was for."""
        lease_id = self.ask_redis("LPOP", self.seat.wake_key)
        if self.dice.random() > 0.1:
            self.take(lease_id)

    def ask_redis(self, *command: str) -> Any:
        """A command of Redis's own; ``None`` where it cannot be reached."""
        try:
            return self.broker.redis.execute_command(*command)  # type: ignore[no-untyped-call]
        except redis.RedisError:
            return None

    def take(self, lease_id: str | None) -> None:
        """Claim; law 4: twice is the same lease."""
        handed = self.attempt(lambda: self.seat.claim(lease_id)) if lease_id else None
        if handed is None:
            return
        if handed.lease.host != self.seat.host:
            self.complain(f"{lease_id} was handed to a worker of {self.seat.host} on {handed.lease.host}")
        again = self.attempt(lambda: self.seat.claim(handed.lease.id))
        if again is not None and again.lease.token != handed.lease.token:
            self.complain(f"law 4: {lease_id} claimed again is another lease")
        self.held.append(handed.lease)

    def ask(self) -> None:
        """For a popped job: it starts here, or waits for any worker of its queue."""
        if int(self.ask_redis("ZCARD", self.broker.keys.waiters) or 0) > 300:
            return  # more would only take the others' time
        self.numbers += 1
        queue = self.seat.text.rpartition(" ")[2].split(",")[0]
        own = self.dice.random() < 0.8
        request = calls.ask(
            self.dice.choice(("256MiB", "1GiB", "3GiB", "6GiB", "2x1GiB")), ttl=self.dice.choice((0.5, 1, 2)), wait=60,
            lease_id=f"{self.orders.name}-job-{os.getpid()}-{self.numbers}", priority=self.dice.choice((0, 0, 0, 3)),
            crew=queue if own else self.dice.choice(QUEUES), seat=self.seat.text if own else "",
            sits=self.seat.sits and own,
        )  # fmt: skip
        reply = self.attempt(lambda: self.broker.call("acquire", *request.asking(True)))
        if reply and reply[0] == "granted":
            granted = answers.read_granted(request.id, reply)
            if granted.host != self.seat.host:
                self.complain(f"{request.id} starts on {granted.host}, where its worker is not")
            self.seat.sits = False
            self.held.append(Lease(self.broker, granted))

    def give_back(self) -> None:
        """The job ended; or its worker was killed."""
        lease = self.held.pop(self.dice.randrange(len(self.held)))
        if self.dice.random() > 0.1:
            self.attempt(lease.release)
