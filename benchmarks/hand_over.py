"""A lease that goes from hand to hand: from its holder's release until the call of a waiter elsewhere returns."""

from __future__ import annotations

import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median

from benchmarks.filled import FULL, Size, fill
from broker import Broker

POOL = "handover"


@dataclass(frozen=True, slots=True)
class HandOver:
    """Medians, in microseconds."""

    others: int
    hand_over_us: float
    #: Of ``return 1`` on the holder's connection, asked before each hand-over.
    round_trip_us: float

    @property
    def round_trips(self) -> float:
        """The hand-over in multiples of a round trip."""
        return self.hand_over_us / self.round_trip_us


def measured(url: str, others: int, turns: int) -> HandOver:
    """So many hand-overs, one after the other, beside so many others in the queue, none of whom it could serve."""
    context = get_context("spawn")
    near, far = context.Pipe()
    other = context.Process(target=_wait_again_and_again, args=(url, far), daemon=True)
    with Broker.from_url(url, pool=POOL) as broker:
        broker.redis.flushall()
        fill(broker, Size(2, 0, others))  # they wait for another card
        other.start()
        far.close()  # so that its death is heard
        sha = broker.redis.script_load("return 1")
        bare, spans = list[float](), list[float]()
        for turn in range(turns + 5):
            begun = time.perf_counter()
            broker.redis.execute_command("EVALSHA", sha, 0)  # type: ignore[no-untyped-call]
            trip = time.perf_counter() - begun
            span = _once(broker, near)
            if turn >= 5:  # the first ones warm both sides
                bare.append(trip)
                spans.append(span)
        near.send(False)
        other.join()
    return HandOver(others, median(spans) * 1e6, median(bare) * 1e6)


def _once(broker: Broker, near: Connection) -> float:
    holder = broker.acquire(FULL, gpu="GPU-0-0")
    near.send(True)
    while "cmd=blpop" not in broker.redis.execute_command("CLIENT", "LIST"):  # type: ignore[no-untyped-call]
        time.sleep(0.001)  # until it sleeps
    begun = time.perf_counter()
    holder.release()
    ended: float = near.recv()
    return ended - begun


def _wait_again_and_again(url: str, far: Connection) -> None:
    """The waiter, a process of its own: asks when it is told to, and says when it had its lease."""
    with Broker.from_url(url, pool=POOL) as broker:
        while far.recv():
            lease = broker.acquire(FULL, gpu="GPU-0-0", wait=30, lease_id="next")
            ended = time.perf_counter()  # one clock for all processes of a machine
            lease.release()
            far.send(ended)
