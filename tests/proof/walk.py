"""A pool on a real server and the model beside it: each script is run, then all that there is is compared.

After every single script the whole pool is read and must be what the model says, the journal must be lawful by itself
(``broker.audit``), every sum and index must follow from the leases (``broker.fsck``), and nobody may wait who could be
served. Callers and agents keep what real ones would: names, requests, tokens, epochs.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import redis

from broker import Broker, calls
from broker.audit import Audit
from broker.errors import BrokerError
from broker.fsck import compare
from broker.granted import Claim
from broker.ledger.keys import Keys
from broker.models import Event
from broker.units import GIB
from tests.proof import pool
from tests.proof.callers import parse_ask
from tests.proof.clock import shift
from tests.proof.judge import Judge
from tests.proof.likeness import unlike
from tests.proof.model import Model
from tests.proof.reports import Report, Sample
from tests.proof.step import Step, Unlawful

#: Machines and their cards, in GiB. GPU-m is moved from one to the other now and then.
HOSTS = {"h1": {"GPU-a": 4, "GPU-b": 4}, "h2": {"GPU-c": 4, "GPU-m": 4}, "h3": {"GPU-e": 8}}
MOVABLE = {"h3": {"GPU-m": 4}}
CARDS = sorted({uuid for cards in HOSTS.values() for uuid in cards})
NAMES = [f"j{number}" for number in range(8)]


@dataclass(slots=True)
class Agent:
    """One host's agent: what it remembers from sample to sample."""

    host: str
    life: str
    sequence: int = 0
    epoch: int = 0


@dataclass(slots=True)
class Holder:
    """What the caller of a name remembers: its request as sent, and what it was granted."""

    argv: tuple[str | int, ...]
    request: calls.Ask
    token: int = 0
    claim: Claim | None = None


class Walk:
    """One pool, from its birth on."""

    def __init__(self, client: redis.Redis) -> None:
        """Begin with an empty server."""
        client.flushall()
        self.client, self.broker, self.keys = client, Broker(client), Keys("default")
        self.judge, self.audit = Judge(Model()), Audit()
        self.steps, self.kinds = Counter[str](), Counter[str]()
        self.last_event, self.shifted = "0", 0
        self.epochs = int(time.time()) - 1_735_689_600 - 50
        self.agents = {host: Agent(host, f"{host}life0") for host in HOSTS}
        self.lives = self.nonces = 0
        self.holders: dict[str, Holder] = {}
        self.last: tuple[str, tuple[str | int, ...]] = ("reap", ())
        self.reply: Any = None  # of the last request

    @property
    def model(self) -> Model:
        """The pool as it should be."""
        return self.judge.model

    # -- one script, and all that must hold after it -----------------------------------------------------------------

    def do(self, name: str, *argv: str | int) -> Any:
        """Run a script, and hold what it did against the model and the laws."""
        step = Step(name, argv)
        step.early = time.time_ns() // 1_000_000
        try:
            step.reply = self.broker.call(name, *argv)
        except BrokerError as error:
            step.error = error
        step.late = time.time_ns() // 1_000_000
        there = pool.read(self.client, self.keys, self.last_event)
        self.last_event, step.events = there.last_event, there.events
        ledger = there.hash("ledger")
        step.clock_ms, step.offset_ms = (int(ledger.get(key, 0)) for key in ("clock_ms", "clock_offset_ms"))
        self.last = name, argv
        self.steps[f"{name} {step.word}".strip()] += 1
        self.kinds.update(event["kind"] for event in step.events)
        self.judge.judge(step)
        self.judge.settle_passes({one: fields["bypassed"] for one, fields in there.named("waiter:").items()})
        wrong = unlike(self.model, there) + [str(one) for one in compare(there.snapshot)] + self._audited(step)
        if wrong:
            raise Unlawful("\n".join(wrong) + f"\nafter {step}\n{self.model}")
        self._nobody_waits_who_fits(step, there)
        if any(event["kind"] == "epoch" for event in step.events):
            self._age()
        return step.error or step.reply

    def _audited(self, step: Step) -> list[str]:
        """The journal by itself, its times as if they had passed."""
        before = len(self.audit.violations)
        for event in step.events:
            own = {key: value for key, value in event.items() if key not in ("seq", "kind", "at")}
            for key in ("settling_until", "grace_until", "revoke_at"):
                if int(own.get(key) or 0):
                    own[key] = str(int(own[key]) + self.shifted)
            at = int(event["at"]) + self.shifted
            self.audit.add(Event(stream_id="0", seq=int(event["seq"]), kind=event["kind"], at=at, fields=own))
        return self.audit.violations[before:]

    def _nobody_waits_who_fits(self, step: Step, there: pool.Reading) -> None:
        """Law 7, but for what a script notes for the next one to serve."""
        if not self.judge.served or there.hash("ledger").get("unserved"):
            return
        for waiter in self.model.queue():
            number = self.model.choice(waiter.ask)
            if number:
                why = f"law 7: {waiter.ask} waits, though its choice {number} fits"
                raise Unlawful(f"{why}\nafter {step}\n{self.model}")

    def _age(self) -> None:
        """An epoch is the second of its birth, and a ledger is not lost twice in one: this one was born a while ago."""
        self.epochs += 1
        model, told = self.model, self.model.epoch
        model.epoch, model.token = self.epochs, self.epochs << 23
        self.client.hset(self.keys.ledger, mapping={"epoch": model.epoch, "token": model.token})
        for host in model.hosts.values():
            if host.epoch == told:
                host.epoch = model.epoch
                self.client.hset(self.keys.host(host.name), "epoch", model.epoch)
        for agent in self.agents.values():
            agent.epoch = model.epoch if agent.epoch == told else agent.epoch

    def let_pass(self, ms: int) -> None:
        """Time passes, and nobody runs a script."""
        shift(self.client, self.keys, ms)
        self.model.shift(ms)
        raw = time.time_ns() // 1_000_000
        self.model.ended = {name: stone for name, stone in self.model.ended.items() if stone.until > raw}
        self.shifted += ms

    def lose_all(self) -> None:
        """The server loses its data; callers and agents do not."""
        self.client.flushall()
        self.judge.model = Model(token=self.model.token)
        self.last_event, self.audit = "0", Audit()

    # -- what agents and callers do ----------------------------------------------------------------------------------

    def sample(self, host: str, cards: dict[str, dict[str, Any]] | None = None, **told: Any) -> None:
        """The host's agent publishes; cards not named are well, an ``absent`` one is not in the sample."""
        agent = self.agents[host]
        agent.sequence += 1
        there = HOSTS[host] | (MOVABLE.get(host, {}) if cards and "GPU-m" in cards else {})
        reports = []
        for uuid, size in there.items():
            news: dict[str, Any] = (cards or {}).get(uuid) or {}
            if "absent" not in news:
                well: dict[str, Any] = {"total": size * GIB, "unmanaged": 0, "capability": "8.6"}
                reports.append(Report(uuid, **(well | news)))
        verdicts = told.pop("verdicts", ())
        of_host = {"memory": 16 * GIB, "cpus": 4000, "labels": "rack=a" if host == "h1" else ""} | told
        self.publish(Sample(host, agent.life, agent.sequence, reports, verdicts, known_epoch=agent.epoch, **of_host))

    def publish(self, sample: Sample) -> None:
        """Send a sample; its agent hears the epoch."""
        reply = self.do("publish_sample", *sample.argv)
        agent = self.agents[sample.host]
        agent.epoch = self.model.epoch if reply[0] != "late" else int(reply[2])

    def ask(self, name: str, asked: dict[str, Any], wait: bool, token: int | None = None) -> None:
        """Acquire, as the client does."""
        request = calls.ask(lease_id=name, wait=0, owner="o", token=token, **asked)
        self.nonces += 1
        given = dict(zip(request.options[::2], request.options[1::2], strict=True)) | {"nonce": f"w-{self.nonces}"}
        request = request._replace(options=tuple(word for pair in given.items() for word in pair))
        self.send(name, Holder((*request.argv, int(wait), *request.options), request), keep=token is None)

    def send(self, name: str, holder: Holder, keep: bool = True) -> None:
        """Send a request, and remember what came of it."""
        reply = self.reply = self.do("acquire", *holder.argv)
        if isinstance(reply, list) and reply[0] in ("granted", "waiting"):
            if reply[0] == "granted":
                holder.token, holder.claim = int(reply[1]), Claim.of(holder.request, reply)
                self.judge.asked[name, holder.token] = parse_ask(*holder.argv)[0]
            if keep:
                self.holders[name] = holder

    def wants(self, name: str, gib: float, *, wait: bool = True, **asked: Any) -> str:
        """Acquire so many GiB, and what became of it."""
        self.ask(name, {"memory": int(gib * GIB), "tenant": "t", **asked}, wait)
        return "granted" if name in self.model.leases else "waiting" if name in self.model.waiters else "refused"

    def gives_back(self, name: str) -> None:
        """The holder of that name releases."""
        self.do("release", name, self.model.leases[name].token)

    def unused(self, name: str) -> str:
        """A name that is in no use, if there is one."""
        free = [one for one in NAMES if one not in self.model.leases and one not in self.model.waiters]
        return free[int(name[1:]) % len(free)] if free else name

    def shown(self, name: str, which: str) -> tuple[str, int]:
        """A lease's name, and the token that a caller shows: its own mostly, of some lease where that name has none."""
        leases, holder = self.model.leases, self.holders.get(name)
        if which == "its" and name not in leases and leases:
            name = sorted(leases)[int(name[1:]) % len(leases)]
        token = leases[name].token if name in leases else holder.token if holder else 0
        return name, {"its": token or 7, "stale": max(1, token - 1), "wild": (1 << 52) + 1, "nobody's": 7}[which]

    def register(self, name: str) -> None:
        """A holder whose lease the ledger may have lost brings it back."""
        holder = self.holders.get(name)
        if holder and holder.claim:
            self.do("register", *holder.claim.argv)

    def configure(self, **changes: str) -> None:
        """The pool's whole configuration."""
        self.do("configure", self.model.version, *(word for pair in sorted(changes.items()) for word in pair))
