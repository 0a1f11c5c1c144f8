"""The real scripts on a real server against a model in plain Python: any order of commands, faults and lost time.

After every single script the whole pool is read and must be what the model says, the journal must be lawful by itself
(``broker.audit``), every sum and index must follow from the leases (``broker.fsck``), and nobody may wait who could be
served. ``GPUBROKER_PROOF_EXAMPLES`` sets the dose, ``GPUBROKER_PROOF_REPORT`` names a file for the numbers.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from broker import Broker, calls
from broker.answers import Claim
from broker.audit import Audit
from broker.embedded import EmbeddedServer
from broker.errors import BrokerError
from broker.fsck import compare
from broker.ledger.keys import Keys
from broker.models import Event
from broker.units import GIB
from tests.proof import pool
from tests.proof.chronicle import Step, Unlawful
from tests.proof.clock import shift
from tests.proof.judge import Judge, parse_ask
from tests.proof.likeness import unlike
from tests.proof.model import Model
from tests.proof.reports import Report, Sample, Verdict

#: Machines and their cards, in GiB. GPU-m is moved from one to the other now and then.
HOSTS = {"h1": {"GPU-a": 4, "GPU-b": 4}, "h2": {"GPU-c": 4, "GPU-m": 4}, "h3": {"GPU-e": 8}}
MOVABLE = {"h3": {"GPU-m": 4}}
CARDS = sorted({uuid for cards in HOSTS.values() for uuid in cards})
#: What a short run must have seen at least once, or it proves nothing.
KINDS = frozenset({
    "granted", "claimed", "queued", "released", "expired", "reclaimed", "unclaimed", "cancelled", "dropped", "state",
    "joined", "left", "drained", "undrained", "config", "clock", "epoch", "settling", "resized", "revoked", "reserved",
    "unreserved", "registered", "adopted", "tenant", "short",
})  # fmt: skip
#: The pause between two scripts of agents, in which nothing is amiss.
BEAT_MS = 4000

NAMES = [f"j{number}" for number in range(8)]
names = st.sampled_from(NAMES)
hosts = st.sampled_from(sorted(HOSTS))
tenants = st.sampled_from(["red", "red", "blue"])
sizes = st.sampled_from([1, 2, 3, 3, 5, 7]).map(lambda n: n * GIB)
ttls = st.sampled_from([6, 30, 30, 90])
whose = st.sampled_from(["its", "its", "its", "its", "its", "its", "stale", "wild", "nobody's"])
often = st.sampled_from([True, True, False])
seldom = st.sampled_from([False, False, False, True])


configurations = st.fixed_dictionaries({}, optional={
    "bypass_max": st.sampled_from(["0", "1", "2"]), "reclaim_seconds": st.sampled_from(["0", "12"]),
    "claim_seconds": st.sampled_from(["6", "60"]), "waiters_max": st.sampled_from(["2", "5"]),
    "grace_seconds": st.sampled_from(["0", "30"]), "memory_reserve_mb": st.sampled_from(["0", "1024"]),
    "memory_limit_mb": st.just("3072"), "memory_limit_mb@GPU-e": st.just("6144"), "preempt": st.just("1"),
    "waiter_seconds": st.sampled_from(["6", "60"]),
})  # fmt: skip


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


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """What ``acquire`` takes: mostly a plain size, sometimes all that one can ask for."""
    asked: dict[str, Any] = {"memory": draw(sizes), "ttl": draw(ttls), "tenant": draw(tenants)}
    if draw(seldom):
        asked["gpus"] = 2
    if draw(often):
        return asked
    asked["priority"] = draw(st.sampled_from([0, 0, 5, -5]))
    kind = draw(st.sampled_from(["host", "gpu", "alternatives", "class", "own", "placement"]))
    if kind == "host":
        asked["host"] = draw(hosts)
    elif kind == "gpu":
        asked["gpu"], asked["gpus"] = draw(st.sampled_from(CARDS)), 1
    elif kind == "alternatives":
        asked["memory"] = [f"{draw(st.sampled_from(['', '2x']))}{draw(sizes)}" for _ in range(draw(st.integers(2, 3)))]
    elif kind == "class":
        asked["capability"] = draw(st.sampled_from([None, "7.5", "9.0"]))
        asked["mig"] = draw(st.sampled_from([None, "any", "none", "only", "1g.5gb"]))
        asked["labels"] = draw(st.sampled_from([None, {"rack": "a"}, {"rack": "b"}]))
    elif kind == "own":
        asked["host_memory"] = draw(st.sampled_from([None, 2 * GIB, 6 * GIB]))
        asked["cpus"] = draw(st.sampled_from([None, 1, 3]))
        if draw(often):
            asked["host"] = draw(hosts)
    else:
        asked["placement"] = draw(st.sampled_from(["pack", "spread", "cool", "balanced"]))
    return asked


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    """How a card is: mostly well."""
    if draw(st.sampled_from([True, True, True, False])):
        return {"state": draw(st.sampled_from(["OPTIMAL", "NORMAL", "THROTTLED"]))}
    kind = draw(st.sampled_from(["hot", "strangers", "strangers", "unknown", "mig", "older"]))
    if kind == "hot":
        return {"state": "CRITICAL"}
    if kind == "strangers":
        one = st.tuples(st.sampled_from([71, 72]), st.sampled_from([GIB, 2 * GIB]))
        used = draw(st.lists(one, max_size=2, unique_by=lambda pair: pair[0]))
        return {"processes": tuple(used), "unmanaged": sum(size for _, size in used) + draw(st.sampled_from([0, GIB]))}
    if kind == "unknown":
        return {"state": "UNAVAILABLE", "unmanaged": None, "total": None}
    return {"mig": "1g.5gb"} if kind == "mig" else {"capability": draw(st.sampled_from(["", "7.0", "9.0"]))}


class PoolMachine(RuleBasedStateMachine):
    """One pool, whatever befalls it."""

    client: ClassVar[redis.Redis]
    steps: ClassVar[Counter[str]] = Counter()
    kinds: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.broker = Broker(self.client)
        self.keys = Keys("default")
        self.judge = Judge(Model())
        self.audit = Audit()
        self.last_event, self.shifted = "0", 0
        self.epochs = int(time.time()) - 1_735_689_600 - 50
        self.agents = {host: Agent(host, f"{host}life0") for host in HOSTS}
        self.lives = self.nonces = 0
        self.holders: dict[str, Holder] = {}
        self.last: tuple[str, tuple[str | int, ...]] = ("reap", ())

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
        self.shifted += ms

    # -- agents ------------------------------------------------------------------------------------------------------

    @initialize(changes=st.sampled_from([{}, {"bypass_max": "0"}, {"bypass_max": "1"}, {"preempt": "1"}]))
    def all_hosts_join(self, changes: dict[str, str]) -> None:
        self.configure(changes)
        for host in HOSTS:
            self.sample(host)

    def sample(self, host: str, cards: dict[str, dict[str, Any]] | None = None, **told: Any) -> None:
        """The host's agent publishes; cards not named are well, ``None`` for one that is not in the sample."""
        agent = self.agents[host]
        agent.sequence += 1
        there = HOSTS[host] | (MOVABLE.get(host, {}) if cards and "GPU-m" in cards else {})
        reports = []
        for uuid, size in there.items():
            condition = {"total": size * GIB, "unmanaged": 0, "capability": "8.6"} | ((cards or {}).get(uuid) or {})
            if not condition.get("absent"):
                reports.append(Report(uuid, **condition))
        verdicts = told.pop("verdicts", ())
        of_host = {"memory": 16 * GIB, "cpus": 4000, "labels": "rack=a" if host == "h1" else ""} | told
        self.publish(Sample(host, agent.life, agent.sequence, reports, verdicts, known_epoch=agent.epoch, **of_host))

    def publish(self, sample: Sample) -> None:
        """Send a sample; its agent hears the epoch."""
        reply = self.do("publish_sample", *sample.argv)
        agent = self.agents[sample.host]
        agent.epoch = self.model.epoch if reply[0] != "late" else int(reply[2])

    @rule(host=hosts)
    def a_sample(self, host: str) -> None:
        self.sample(host)

    @rule(data=st.data(), host=hosts, interval=st.sampled_from([600_000, 600_000, 5_000]))
    def a_sample_with_news(self, data: st.DataObject, host: str, interval: int) -> None:
        cards = {}
        for uuid in sorted(HOSTS[host] | MOVABLE.get(host, {})):
            if data.draw(st.booleans(), label=f"{uuid} has news"):
                cards[uuid] = data.draw(conditions() | st.just({"absent": True}), label=uuid)
        self.sample(host, cards, interval=interval)

    @rule(host=hosts, memory=st.sampled_from([0, 4, 16]), cpus=st.sampled_from([0, 2000]), label=st.sampled_from("ab"))
    def a_sample_of_another_host(self, host: str, memory: int, cpus: int, label: str) -> None:
        self.sample(host, memory=memory * GIB, cpus=cpus, labels=f"rack={label}")

    @rule(host=hosts, verdict=st.sampled_from(["alive", "gone", "gone", ""]), right=often)
    def an_agent_sees_processes(self, host: str, verdict: str, right: bool) -> None:
        held = [lease for lease in self.model.leases.values() if lease.host == host]
        self.sample(host, verdicts=[Verdict(lease.id, lease.token - (not right), verdict) for lease in held])

    @rule(host=hosts, leaves=often)
    def an_agent_ends(self, host: str, leaves: bool) -> None:
        """It says goodbye, or is followed by another that knows nothing."""
        self.lives += 1
        self.agents[host] = Agent(host, f"{host}life{self.lives}")
        if leaves:
            self.do("leave", host)
        else:
            self.sample(host)

    # -- callers -----------------------------------------------------------------------------------------------------

    def ask(self, name: str, asked: dict[str, Any], wait: bool, token: int | None = None) -> None:
        """Acquire, as the client does."""
        request = calls.ask(lease_id=name, wait=0, owner="o", token=token, **asked)
        self.nonces += 1
        given = dict(zip(request.options[::2], request.options[1::2], strict=True)) | {"nonce": f"n{self.nonces}"}
        request = replace(request, options=tuple(word for pair in given.items() for word in pair))
        self.send(name, Holder((*request.argv, int(wait), *request.options), request), keep=token is None)

    def send(self, name: str, holder: Holder, keep: bool = True) -> None:
        """Send a request, and remember what came of it."""
        reply = self.do("acquire", *holder.argv)
        if isinstance(reply, list) and reply[0] in ("granted", "waiting"):
            if reply[0] == "granted":
                holder.token, holder.claim = int(reply[1]), Claim.of(holder.request, reply)
                self.judge.asked[name, holder.token] = parse_ask(*holder.argv)[0]
            if keep:
                self.holders[name] = holder

    def unused(self, name: str) -> str:
        """A name that is in no use, if there is one."""
        free = [one for one in NAMES if one not in self.model.leases and one not in self.model.waiters]
        return free[int(name[1:]) % len(free)] if free else name

    @rule(name=names, asked=requests(), wait=often)
    def acquire(self, name: str, asked: dict[str, Any], wait: bool) -> None:
        self.ask(name, asked, wait)

    @rule(name=names, size=sizes, tenant=tenants)
    def acquire_plainly(self, name: str, size: int, tenant: str) -> None:
        self.ask(self.unused(name), {"memory": size, "tenant": tenant}, True)

    @rule(orders=st.lists(st.tuples(names, sizes, tenants, st.sampled_from([0, 0, 5])), min_size=2, max_size=6))
    def many_ask(self, orders: list[tuple[str, int, str, int]]) -> None:
        for name, size, tenant, priority in orders:
            self.ask(self.unused(name), {"memory": size, "tenant": tenant, "priority": priority}, True)

    @rule(asked=st.lists(st.tuples(names, requests()), min_size=2, max_size=4))
    def many_ask_for_all_kinds(self, asked: list[tuple[str, dict[str, Any]]]) -> None:
        for name, request in asked:
            self.ask(self.unused(name), request, True)

    @rule(which=st.lists(names, min_size=1, max_size=4))
    def some_release(self, which: list[str]) -> None:
        for name in which:
            self.release(name, "its")

    @rule(name=names, size=sizes, which=whose)
    def continue_under_a_token(self, name: str, size: int, which: str) -> None:
        shown, token = self.shown(name, which)
        self.ask(shown, {"memory": size}, False, token)

    @rule(name=names, wait=often, same=often)
    def ask_again(self, name: str, wait: bool, same: bool) -> None:
        """A waiter's beat, a claim, or a call that is delivered once more, perhaps after its end."""
        holder = self.holders.get(name)
        if holder:
            argv = [*holder.argv]
            argv[11] = int(wait)
            if not same:
                self.nonces += 1
                argv[argv.index("nonce") + 1] = f"n{self.nonces}"
            self.send(name, Holder(tuple(argv), holder.request))

    @rule()
    def everyone_asks_again(self) -> None:
        for name in sorted(self.model.waiters | self.model.leases):
            self.ask_again(name, True, True)

    def shown(self, name: str, which: str) -> tuple[str, int]:
        """A lease's name, and the token that a caller shows: its own mostly, of some lease where that name has none."""
        leases, holder = self.model.leases, self.holders.get(name)
        if which == "its" and name not in leases and leases:
            name = sorted(leases)[int(name[1:]) % len(leases)]
        token = leases[name].token if name in leases else holder.token if holder else 0
        return name, {"its": token or 7, "stale": max(1, token - 1), "wild": (1 << 52) + 1, "nobody's": 7}[which]

    @rule(name=names, which=whose, ttl=st.sampled_from(["", 6000, 30_000, 90_000]))
    def renew(self, name: str, which: str, ttl: int | str) -> None:
        self.do("renew", *self.shown(name, which), ttl)

    @rule(name=names, which=whose, pid=st.sampled_from(["", 71]))
    def start(self, name: str, which: str, pid: int | str) -> None:
        self.do("start", *self.shown(name, which), pid, "")

    @rule(name=names, which=whose)
    def release(self, name: str, which: str) -> None:
        self.do("release", *self.shown(name, which))

    @rule(name=names, which=whose, size=sizes, wait=often)
    def resize(self, name: str, which: str, size: int, wait: bool) -> None:
        self.do("resize", *self.shown(name, which), size, int(wait), "")

    @rule(name=names, mine=st.sampled_from(["", "mine", "another"]), growth=seldom)
    def cancel(self, name: str, mine: str, growth: bool) -> None:
        waiter = self.model.waiters.get(name)
        nonce = (waiter.ask.nonce if waiter else "none") if mine == "mine" else mine
        self.do("cancel", f"{name}+" if growth else name, nonce)

    @rule()
    def the_last_reply_is_lost(self) -> None:
        """The same call once more, as a client does that heard nothing."""
        name, argv = self.last
        if name == "acquire":
            held = self.holders.get(str(argv[0]))
            if held and held.argv == argv:
                return self.send(str(argv[0]), held)
        self.do(name, *argv)
        return None

    # -- operators ---------------------------------------------------------------------------------------------------

    @rule(name=names, which=whose, grace=st.sampled_from([0, 6000, 60_000]))
    def revoke(self, name: str, which: str, grace: int) -> None:
        self.do("revoke", self.shown(name, which)[0], grace, "a reason")

    @rule(what=st.sampled_from([*CARDS, *HOSTS]), on=often)
    def drain(self, what: str, on: bool) -> None:
        self.do("drain" if on else "undrain", "host" if what in HOSTS else "gpu", what)

    @rule()
    def lift_all_marks(self) -> None:
        for uuid in sorted(uuid for uuid, card in self.model.cards.items() if card.drained_by):
            self.do("undrain", "gpu", uuid)
        for host in sorted(self.model.hosts):
            self.do("undrain", "host", host)

    @rule(name=tenants, quota=st.sampled_from(["", 0, 0, 4, 12]), weight=st.sampled_from(["", 500, 1000, 4000]))
    def set_a_tenant(self, name: str, quota: int | str, weight: int | str) -> None:
        self.do("tenant", name, quota * GIB if isinstance(quota, int) else "", weight)

    @rule(changes=configurations)
    def configure(self, changes: dict[str, str]) -> None:
        self.do("configure", self.model.version, *(word for pair in sorted(changes.items()) for word in pair))

    # -- time and faults ---------------------------------------------------------------------------------------------

    @rule()
    def reap(self) -> None:
        self.do("reap")

    @rule(beats=st.integers(1, 9))
    def time_passes(self, beats: int) -> None:
        for _ in range(beats):
            self.let_pass(BEAT_MS)
            self.do("reap")

    @rule(beats=st.integers(1, 9))
    def time_passes_and_holders_renew(self, beats: int) -> None:
        for _ in range(beats):
            self.let_pass(BEAT_MS)
            for name in sorted(self.model.leases):
                self.renew(name, "its", "")

    @rule(seconds=st.sampled_from([4, 20, 70, 3600, -5, -600]))
    def the_clock_steps(self, seconds: int) -> None:
        """Or nobody runs a script for so long, which is the same to a ledger."""
        self.let_pass(seconds * 1000)

    @rule(kind=st.sampled_from(["scripts", "p1", "p2", "data", "data"]), back=often)
    def the_server_forgets(self, kind: str, back: bool) -> None:
        """Its scripts, some writes before another primary took over, or all data; and all come back, or not yet."""
        if kind == "scripts":
            self.client.script_flush()
        elif kind != "data":
            self.do("hello", kind)
        else:
            self.client.flushall()
            self.judge.model = Model(token=self.model.token)
            self.last_event, self.audit = "0", Audit()
            if back:
                self.every_host_and_holder_comes_back()

    @rule(name=names)
    def register(self, name: str) -> None:
        holder = self.holders.get(name)
        if holder and holder.claim:
            self.do("register", *holder.claim.argv)

    @rule()
    def every_host_and_holder_comes_back(self) -> None:
        for host in HOSTS:
            self.sample(host)
        for name in sorted(self.holders):
            self.register(name)

    @rule(name=names, pid=st.sampled_from([71, 72]), size=sizes, used=st.sampled_from([GIB, 3 * GIB]), fresh=often,
          host=hosts, named=seldom,
          ttl=ttls, tenant=tenants)  # fmt: skip
    def adopt(
        self, name: str, pid: int, size: int, used: int, fresh: bool, host: str, named: bool, ttl: int, tenant: str
    ) -> None:
        """A lease for memory that a process uses already, of which its agent tells now or told before."""
        uuid = sorted(HOSTS[host])[0]
        if fresh:
            strangers = {"processes": ((71, used), (72, GIB)), "unmanaged": used + GIB}
            self.sample(host, {uuid: strangers})
        self.do("adopt", name, pid, size, ttl * 1000, host, uuid if named else "", tenant, "o", "")


def test_the_scripts_do_what_the_model_says(redis_server: EmbeddedServer, capsys: Any) -> None:
    examples = int(os.environ.get("GPUBROKER_PROOF_EXAMPLES", "30"))
    PoolMachine.client = redis.Redis.from_url(redis_server.url, decode_responses=True)
    dose = settings(
        max_examples=examples, stateful_step_count=40, deadline=None, derandomize=True, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    with PoolMachine.client:
        run_state_machine_as_test(PoolMachine, settings=dose)  # type: ignore[no-untyped-call]
    done = {"steps": sum(PoolMachine.steps.values()), "scripts": PoolMachine.steps, "events": PoolMachine.kinds}
    with capsys.disabled():
        print(f"\n{done['steps']} scripts held against the model")
    if report := os.environ.get("GPUBROKER_PROOF_REPORT"):
        Path(report).write_text(json.dumps(done, indent=1, sort_keys=True), encoding="utf-8")
    if examples >= 300:  # a small dose does not come to all that can happen
        assert set(PoolMachine.kinds) >= KINDS, sorted(KINDS - set(PoolMachine.kinds))
