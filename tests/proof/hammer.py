"""Processes that hammer a pool through the real client: holders, an operator, and an agent for several hosts.

Each is seeded, stops at SIGTERM or with its parent, and takes every refusal of the broker for granted. What it does not
take for granted (a script that failed, an exception that is none of the broker's, a retry that got another token) goes
as a line into a file of its folder.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from broker import Broker, Lease
from broker.errors import BrokerError, InvalidRequest, PoolUnavailable
from broker.units import GIB, MIB

HOSTS = {"h0": 2, "h1": 2, "h2": 1, "h3": 4}
TENANTS = ("t0", "t1", "t2", "t3")
INTERVAL_MS = 200
_SIZES = (64 * MIB, 256 * MIB, 512 * MIB, GIB, 3 * GIB // 2, 2 * GIB, 3 * GIB, 5 * GIB, 7 * GIB)
#: Answers of a server on its way up or down, or of one that lost a script; not a script's failure.
_PASSING = ("LOADING", "BUSY", "NOSCRIPT", "UNBLOCKED")

UUIDS = {host: [f"GPU-{host}-{i}" for i in range(count)] for host, count in HOSTS.items()}
ALL_UUIDS = [uuid for uuids in UUIDS.values() for uuid in uuids]
#: The process without a lease that each card may carry.
STRANGERS = {uuid: 1000 + i for i, uuid in enumerate(ALL_UUIDS)}
_STATES = ("OPTIMAL",) * 20 + ("NORMAL", "THROTTLED", "CRITICAL", "UNAVAILABLE")


@dataclass(frozen=True, slots=True)
class Orders:
    """What one process is to do. ``folder`` takes its complaints."""

    role: str
    name: str
    url: str
    pool: str
    seed: int
    folder: Path
    parent: int


class Worker:
    """What the roles have in common: a broker, dice, and a place to complain."""

    def __init__(self, orders: Orders) -> None:
        """Connect at the first request."""
        self.orders = orders
        self.dice = random.Random(orders.seed)
        self.broker = Broker.from_url(orders.url, pool=orders.pool)

    def step(self) -> None:
        """One act, drawn by lot."""
        raise NotImplementedError

    def complain(self, what: str) -> None:
        """Note what must not happen."""
        with (self.orders.folder / f"{self.orders.name}.txt").open("a", encoding="utf-8") as notes:
            notes.write(what.replace("\n", " ") + "\n")

    def attempt(self, act: Callable[[], Any]) -> Any:
        """The result, or ``None`` where the broker refused."""
        try:
            return act()
        except PoolUnavailable as error:
            if " refused: " in str(error) and not any(word in str(error) for word in _PASSING):
                self.complain(f"law 2: a script failed: {error}")
        except InvalidRequest as error:
            self.complain(f"a lawful request was called invalid: {error}")
        except BrokerError:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the hammering goes on
            self.complain(f"an exception that is none of the broker's: {error!r}")
        return None


class Holder(Worker):
    """Borrows, renews, resizes, returns, forgets, and uses names and tokens that are not its own."""

    def __init__(self, orders: Orders) -> None:
        """Hold nothing yet."""
        super().__init__(orders)
        self.held: list[tuple[Lease, dict[str, Any]]] = []
        self.names = 0

    def step(self) -> None:
        """One act, drawn by lot."""
        acts = [self.borrow, self.borrow, self.borrow, self.cancel, self.trespass]
        if self.held:
            acts += [self.give_back] * 3 + [self.renew] * 2
            acts += [self.resize, self.ask_again, self.forget, self.confirm]
        self.dice.choice(acts)()
        if len(self.held) > 6:
            self.give_back()

    def request(self) -> dict[str, Any]:
        """A request, drawn by lot; every feature is rare enough that most requests can be served."""
        draw = self.dice.random
        ask: dict[str, Any] = {
            "memory": self.dice.choice(_SIZES), "ttl": self.dice.choice((0.3, 0.6, 1, 2)),
            "wait": self.dice.choice((0, 0, 0, 0, 0.1, 0.3, 1)), "priority": self.dice.choice((-1, 0, 0, 0, 5)),
            "tenant": self.dice.choice(TENANTS), "lease_id": self.name(),
        }  # fmt: skip
        if draw() < 0.2:
            ask["memory"] = sorted((self.dice.choice(_SIZES) for _ in range(3)), reverse=True)
        if draw() < 0.15:
            ask["gpus"] = 2
        if draw() < 0.15:
            ask["host"] = self.dice.choice(tuple(HOSTS))
        elif draw() < 0.1 and "gpus" not in ask:
            ask["gpu"] = self.dice.choice(ALL_UUIDS)
        if draw() < 0.3:
            ask["placement"] = self.dice.choice(("pack", "spread", "cool", "balanced"))
        if draw() < 0.1:
            ask |= {"host_memory": "1GiB", "cpus": 1.5}
        if draw() < 0.1:
            ask["labels"] = {"rack": self.dice.choice("ab")}
        if draw() < 0.1:
            ask["capability"] = "8.0"
        if draw() < 0.3:
            ask["function"] = self.dice.choice(("decode", "enhance"))
        return ask

    def name(self) -> str:
        """Mostly a new name; sometimes one that several share."""
        if self.dice.random() < 0.1:
            return f"shared-{self.dice.randrange(8)}"
        self.names += 1
        return f"{self.orders.name}-{os.getpid()}-{self.names}"

    def borrow(self) -> None:
        """A new lease, at once or after waiting."""
        request = self.request()
        lease = self.attempt(lambda: self.broker.acquire(**request))
        if lease is not None:
            self.held.append((lease, request))

    def ask_again(self) -> None:
        """Law 4: the same name and request is the same lease and token, as long as it is not lost."""
        lease, request = self.dice.choice(self.held)
        again = self.attempt(lambda: self.broker.acquire(**(request | {"wait": 0, "token": lease.token})))
        if again is not None and (again.token, again.gpu_uuids) != (lease.token, lease.gpu_uuids):
            self.complain(f"law 4: {lease!r} asked again is {again!r}")

    def renew(self) -> None:
        """Put an end off."""
        lease, _ = self.dice.choice(self.held)
        self.attempt(lease.renew)

    def confirm(self) -> None:
        """The start gate."""
        lease, _ = self.dice.choice(self.held)
        self.attempt(lambda: self.broker.check(lease.id, lease.token, pid=os.getpid()))

    def resize(self) -> None:
        """More or less memory on the same cards."""
        lease, _ = self.dice.choice(self.held)
        size, wait = self.dice.choice(_SIZES), self.dice.choice((0, 0, 0, 0.3))
        self.attempt(lambda: lease.resize(size, wait=wait))

    def give_back(self) -> None:
        """The lawful end."""
        lease, _ = self.held.pop(self.dice.randrange(len(self.held)))
        self.attempt(lease.release)

    def forget(self) -> None:
        """Let it expire."""
        self.held.pop(self.dice.randrange(len(self.held)))

    def cancel(self) -> None:
        """Take back what somebody waits for, or nobody."""
        name = f"shared-{self.dice.randrange(8)}" if self.dice.random() < 0.5 else f"{self.orders.name}-{os.getpid()}-1"
        self.attempt(lambda: self.broker.cancel(name))

    def trespass(self) -> None:
        """Law 5: another's lease with a token that is not the one."""
        name, token = f"shared-{self.dice.randrange(8)}", self.dice.randrange(1, 1 << 50)
        act = self.dice.choice((self.broker.renew, self.broker.release, self.broker.check))
        if self.attempt(lambda: act(name, token)) is not None:
            self.complain(f"law 5: {act.__name__} of {name} under a token that was made up")


class Operator(Worker):
    """Drains, revokes, changes settings and quotas, asks for explanations."""

    def step(self) -> None:
        """One act, drawn by lot; then a while of nothing."""
        acts = [self.drain, self.undrain, self.undrain, self.configure, self.revoke]
        acts += [self.quota, self.look, self.reap, self.adopt]
        self.dice.choice(acts)()
        time.sleep(self.dice.random() / 10)

    def drain(self) -> None:
        """A card or a host lends no more."""
        if self.dice.random() < 0.5:
            self.attempt(lambda: self.broker.drain(self.dice.choice(ALL_UUIDS)))
        else:
            self.attempt(lambda: self.broker.drain(host=self.dice.choice(tuple(HOSTS))))

    def undrain(self) -> None:
        """All of them lend again."""
        for host, uuids in UUIDS.items():
            self.attempt(lambda host=host: self.broker.undrain(host=host))  # type: ignore[misc]
            for uuid in uuids:
                self.attempt(lambda uuid=uuid: self.broker.undrain(uuid))  # type: ignore[misc]

    def configure(self) -> None:
        """One setting, of the pool or of one card."""
        name, values = self.dice.choice((
            ("memory_reserve_mb", (0, 256, 512, 2048)), ("bypass_max", (0, 2, 5)), ("reclaim_seconds", (0, 0.2, 0.5)),
            ("claim_seconds", (1, 2)), ("waiter_seconds", (1, 2, 4)), ("waiters_max", (3, 50, 10_000)),
            ("preempt", (0, 1)), ("preempt_grace_seconds", (0, 0.3)), ("usage_half_life_seconds", (1, 60)),
        ))  # fmt: skip
        value, card = self.dice.choice(values), None
        if name == "memory_reserve_mb" and self.dice.random() < 0.3:
            card = self.dice.choice(ALL_UUIDS)
        self.attempt(lambda: self.broker.update_config(card, **{name: value}))

    def revoke(self) -> None:
        """Somebody's lease, with little grace."""
        leases = self.attempt(self.broker.leases)
        if leases:
            name, grace = self.dice.choice(leases).id, self.dice.choice((0, 0.2, 1))
            self.attempt(lambda: self.broker.revoke(name, grace=grace))

    def quota(self) -> None:
        """What one tenant may hold, or its weight."""
        name = self.dice.choice(TENANTS)
        quota, weight = self.dice.choice((0, 0, "4GiB", "12GiB")), self.dice.choice((0.5, 1.0, 3.0))
        self.attempt(lambda: self.broker.set_tenant(name, quota=quota, weight=weight))

    def adopt(self) -> None:
        """A stranger's memory becomes a lease."""
        uuid = self.dice.choice(ALL_UUIDS)
        host, pid, size = uuid.split("-")[1], STRANGERS[uuid], self.dice.choice(_SIZES)
        self.attempt(lambda: self.broker.adopt(pid, size, host=host, ttl=1, tenant=self.dice.choice(TENANTS)))

    def look(self) -> None:
        """Why something waits, or what could be had. Changes nothing."""
        act = self.dice.choice(("explain", "repair"))
        if act == "repair":
            self.attempt(lambda: self.broker.call("repair", "gpu", self.dice.choice(ALL_UUIDS)))
        elif hasattr(self.broker, "explain"):
            self.attempt(lambda: self.broker.explain(self.dice.choice(_SIZES), gpus=self.dice.choice((1, 2))))

    def reap(self) -> None:
        """What every script does on its way."""
        self.attempt(self.broker.reap)


class Agents(Worker):
    """One agent for each host: samples with changing strangers, heat and gaps, and what it saw of leases' processes.

    Speaks to the ledger in its own words, so that a sample can be as late or as odd as on a bad day.
    """

    def __init__(self, orders: Orders) -> None:
        """All hosts well."""
        super().__init__(orders)
        self.unmanaged = dict.fromkeys(ALL_UUIDS, 0)
        self.due = dict.fromkeys(HOSTS, 0.0)
        self.told = dict.fromkeys(HOSTS, 0)
        self.sequences = dict.fromkeys(HOSTS, 0)
        self.lives = {host: f"{self.dice.getrandbits(64):x}" for host in HOSTS}

    def step(self) -> None:
        """Publish for one host whose time has come."""
        host = min(self.due, key=lambda name: self.due[name])
        time.sleep(max(0.0, self.due[host] - time.monotonic()))
        self.due[host] = time.monotonic() + INTERVAL_MS / 1000
        chance = self.dice.random()
        if chance < 0.02:  # silent for longer than its samples are fresh
            self.due[host] += self.dice.choice((0.5, 1.0))
        elif chance < 0.03:
            self.attempt(lambda: self.broker.call("leave", host))
        elif chance < 0.04:  # another process takes over, and knows nothing of before
            self.lives[host], self.sequences[host], self.told[host] = f"{self.dice.getrandbits(64):x}", 0, 0
        elif chance < 0.06:
            self.publish(host, [], "UNAVAILABLE")
        else:
            self.publish(host, [uuid for uuid in UUIDS[host] if self.dice.random() > 0.02], "OK")

    def publish(self, host: str, uuids: list[str], state: str) -> None:
        """One sample; now and then it overtakes the one before it."""
        reports = [word for uuid in uuids for word in self.report(uuid)]
        verdicts = self.attempt(lambda: self.verdicts(uuids)) or []
        self.sequences[host] += 1
        sequence = self.sequences[host]
        if self.dice.random() < 0.02:
            sequence = max(1, sequence - self.dice.randrange(3))
        words: list[str | int] = [
            host, INTERVAL_MS, state, "", "soak", len(uuids), len(verdicts) // 6, self.told[host], self.lives[host],
            sequence, "", 16 * GIB, 8000, f"rack={'ab'[int(host[1]) % 2]}", "", "",
        ]  # fmt: skip
        reply = self.attempt(lambda: self.broker.call("publish_sample", *words, *reports, *verdicts))
        if reply:
            self.told[host] = int(reply[2] if reply[0] == "late" else reply[1])

    def verdicts(self, uuids: list[str]) -> list[str]:
        """What is seen of the processes of the leases on these cards; nothing of most."""
        words: list[str] = []
        for lease in self.broker.leases():
            if lease.gpu_uuids.split(",")[0] in uuids:
                seen = self.dice.choice(("alive", "", "", "", "gone"))
                words += [lease.id, str(lease.token), seen, str(lease.memory_bytes) if seen == "alive" else ""]
                words += [str(self.dice.choice((0, 0, MIB))), str(self.dice.choice((0, 0, 600)))]
        return words

    def report(self, uuid: str) -> list[str | int]:
        """One card of 8 GiB, of which one stranger has some."""
        if self.dice.random() < 0.1:
            self.unmanaged[uuid] = self.dice.choice((0, 0, 512 * MIB, 2 * GIB, 6 * GIB))
        state = self.dice.choice(_STATES)
        known: tuple[str | int, ...] = (8 * GIB, self.unmanaged[uuid], 0, self.unmanaged[uuid])
        if state == "UNAVAILABLE" and self.dice.random() < 0.5:
            known = ("", "", "", "")
        temperature = self.dice.randrange(40, 80)
        pids = f"{STRANGERS[uuid]}:{self.unmanaged[uuid]}" if self.unmanaged[uuid] else ""
        index = int(uuid[-1])
        capability = "9.0" if uuid.startswith("GPU-h3") else "8.6"
        marks = self.dice.choice((*[""] * 20, "health", "people", "health,people"))
        more = marks, f"margin_c {90 - temperature}", self.dice.choice((*[""] * 20, "48 31")), "", ""
        return [uuid, index, "Test 8GB", state, state, "", *known, temperature, "", "", "", capability, "", pids, *more]


ROLES: dict[str, Callable[[Orders], Worker]] = {"holder": Holder, "operator": Operator, "agents": Agents}
#: Holders sleep while they wait: several to a process, each with connections of its own.
_THREADS = {"holder": 6, "operator": 1, "agents": 1, "starter": 3}


def work(orders: Orders) -> None:
    """A process's whole life, until SIGTERM or its parent's end."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    from tests.proof.starters import Starter

    roles = ROLES | {"starter": Starter}

    def keep_on(number: int) -> None:
        worker = roles[orders.role](replace(orders, name=f"{orders.name}.{number}", seed=orders.seed + number))
        while not stop.is_set() and os.getppid() == orders.parent:
            worker.step()

    others = [threading.Thread(target=keep_on, args=(i,)) for i in range(1, _THREADS[orders.role])]
    for thread in others:
        thread.start()
    keep_on(0)
    for thread in others:
        thread.join()
