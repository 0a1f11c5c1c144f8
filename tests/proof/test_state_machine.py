"""The real scripts on a real server against a model in plain Python: any order of commands, faults and lost time.

``GPUBROKER_PROOF_EXAMPLES`` sets the dose, ``GPUBROKER_PROOF_REPORT`` names a file for the numbers. What is held
against each script is told in ``walk.py``.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from broker.embedded import EmbeddedServer
from broker.units import GIB
from tests.proof.reports import Verdict
from tests.proof.walk import CARDS, HOSTS, MOVABLE, NAMES, Agent, Holder, Walk

#: What a run must have seen at least once, or it proves nothing: any run, and one of hundreds of examples.
OFTEN = frozenset({"granted", "queued", "released", "expired", "reclaimed", "state", "joined", "epoch", "settling"})
SELDOM = frozenset({
    "adopted", "cancelled", "claimed", "clock", "config", "drained", "dropped", "left", "registered", "reserved",
    "resized", "revoked", "short", "tenant", "unclaimed", "undrained", "unreserved",
})  # fmt: skip
#: Examples of up to 40 rules each, the same ones every time.
SMALL_DOSE = 40
#: The pause between two scripts of agents, in which nothing is amiss.
BEAT_MS = 4000

names = st.sampled_from(NAMES)
hosts = st.sampled_from(sorted(HOSTS))
tenants = st.sampled_from(["red", "red", "blue"])
sizes = st.sampled_from([1, 2, 3, 3, 5, 7]).map(lambda n: n * GIB)
ttls = st.sampled_from([30, 30, 90, 6])
whose = st.sampled_from(["its", "its", "its", "its", "its", "its", "stale", "wild", "nobody's"])
often = st.sampled_from([True, True, False])
seldom = st.sampled_from([False, False, False, True])


Order = tuple[str, int, str, int, int]
orders: st.SearchStrategy[Order] = st.tuples(names, sizes, tenants, st.sampled_from([0, 0, 5]), ttls)
configurations = st.fixed_dictionaries({}, optional={
    "bypass_max": st.sampled_from(["0", "1", "2"]), "reclaim_seconds": st.sampled_from(["0", "12"]),
    "claim_seconds": st.sampled_from(["6", "60"]), "waiters_max": st.sampled_from(["2", "5"]),
    "grace_seconds": st.sampled_from(["0", "30"]), "memory_reserve_mb": st.sampled_from(["0", "1024"]),
    "memory_limit_mb": st.just("3072"), "memory_limit_mb@GPU-e": st.just("6144"), "preempt": st.just("1"),
    "waiter_seconds": st.sampled_from(["6", "60"]),
})  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """What ``acquire`` takes: mostly a plain size, sometimes all that one can ask for."""
    asked: dict[str, Any] = {"memory": draw(sizes), "ttl": draw(ttls), "tenant": draw(tenants)}
    if draw(seldom):
        asked["gpus"] = 2
    if draw(often):
        return asked
    asked["priority"] = draw(st.sampled_from([0, 0, 5, -5]))
    kind = draw(st.sampled_from(["host", "gpu", "alternatives", "class", "own", "own", "placement"]))
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
        asked["host_memory"] = draw(st.sampled_from([None, 6 * GIB, 12 * GIB]))
        asked["cpus"] = draw(st.sampled_from([None, 1, 3]))
        where = draw(st.sampled_from(["host", "gpu", "anywhere"]))
        if where == "host":
            asked["host"] = draw(hosts)
        elif where == "gpu":
            asked["gpu"], asked["gpus"] = draw(st.sampled_from(CARDS)), 1
    else:
        asked["placement"] = draw(st.sampled_from(["pack", "spread", "cool", "balanced"]))
    return asked


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    """How a card is: mostly well."""
    if draw(st.sampled_from([True, True, True, False])):
        return {"state": draw(st.sampled_from(["OPTIMAL", "NORMAL", "THROTTLED"]))}
    kind = draw(st.sampled_from(["hot", "strangers", "strangers", "unknown", "mig", "older", "marked"]))
    if kind == "marked":
        return {"marks": draw(st.sampled_from(["health", "people", "health,people"]))}
    if kind == "hot":
        return {"state": "CRITICAL"}
    if kind == "strangers":
        one = st.tuples(st.sampled_from([71, 72]), st.sampled_from([GIB, 2 * GIB]))
        used = draw(st.lists(one, max_size=2, unique_by=lambda pair: pair[0]))
        return {"processes": tuple(used), "unmanaged": sum(size for _, size in used) + draw(st.sampled_from([0, GIB]))}
    if kind == "unknown":
        return {"state": "UNAVAILABLE", "unmanaged": None, "total": None}
    return {"mig": "1g.5gb"} if kind == "mig" else {"capability": draw(st.sampled_from(["", "7.0", "9.0"]))}


class PoolMachine(Walk, RuleBasedStateMachine):
    """One pool, whatever befalls it."""

    server: ClassVar[redis.Redis]
    all_steps: ClassVar[Counter[str]] = Counter()
    all_kinds: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        """Begin on an empty server."""
        RuleBasedStateMachine.__init__(self)
        Walk.__init__(self, self.server)

    def teardown(self) -> None:
        """Count what was done."""
        self.all_steps.update(self.steps)
        self.all_kinds.update(self.kinds)

    # -- agents ------------------------------------------------------------------------------------------------------

    @initialize(
        changes=st.sampled_from([{}, {"bypass_max": "0"}, {"bypass_max": "1"}, {"preempt": "1"}]),
        orders=st.lists(orders, min_size=3, max_size=8),
    )
    def a_pool_at_work(self, changes: dict[str, str], orders: list[Order]) -> None:
        self.configure(**changes)
        for host in HOSTS:
            self.sample(host)
        self.many_ask(orders)

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

    @rule(to=st.sampled_from(["h2", "h3"]), told=often)
    def a_card_moves_house(self, to: str, told: bool) -> None:
        """From one host to another, whose agent tells of it before or after the old one's does."""
        away = {"h2": "h3", "h3": "h2"}[to]
        for host in (away, to) if told else (to, away):
            self.sample(host, {"GPU-m": {} if host == to else {"absent": True}})

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

    @rule(name=names, asked=requests(), wait=often)
    def acquire(self, name: str, asked: dict[str, Any], wait: bool) -> None:
        self.ask(name, asked, wait)

    @rule(name=names, size=sizes, tenant=tenants)
    def acquire_plainly(self, name: str, size: int, tenant: str) -> None:
        self.ask(self.unused(name), {"memory": size, "tenant": tenant}, True)

    @rule(orders=st.lists(orders, min_size=2, max_size=6))
    def many_ask(self, orders: list[Order]) -> None:
        for name, size, tenant, priority, ttl in orders:
            asked = {"memory": size, "tenant": tenant, "priority": priority, "ttl": ttl}
            self.ask(self.unused(name), asked, True)

    @rule(asked=st.lists(st.tuples(names, requests()), min_size=2, max_size=4))
    def many_ask_for_all_kinds(self, asked: list[tuple[str, dict[str, Any]]]) -> None:
        for name, request in asked:
            self.ask(self.unused(name), request, True)

    @rule(which=st.lists(names, min_size=1, max_size=4), claimed=often)
    def some_release(self, which: list[str], claimed: bool) -> None:
        """And those who are served by it come for it, or not yet."""
        for name in which:
            self.release(name, "its")
        if claimed:
            self.everyone_asks_again()

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
    def another_configuration(self, changes: dict[str, str]) -> None:
        self.configure(**changes)

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
            self.lose_all()
            if back:
                self.every_host_and_holder_comes_back()

    @rule(name=names)
    def a_holder_comes_back(self, name: str) -> None:
        self.register(name)

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


def test_the_scripts_do_what_the_model_says(redis_server: EmbeddedServer, capsys: pytest.CaptureFixture[str]) -> None:
    examples = int(os.environ.get("GPUBROKER_PROOF_EXAMPLES", SMALL_DOSE))
    small = examples <= SMALL_DOSE
    dose = settings(
        max_examples=examples, stateful_step_count=40, deadline=None, derandomize=small, database=None,
        print_blob=not small, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as PoolMachine.server:
        run_state_machine_as_test(PoolMachine, settings=dose)
    done = sum(PoolMachine.all_steps.values())
    with capsys.disabled():
        print(f"\n{done} scripts held against the model")
    if report := os.environ.get("GPUBROKER_PROOF_REPORT"):
        told = {"steps": done, "scripts": PoolMachine.all_steps, "events": PoolMachine.all_kinds}
        Path(report).write_text(json.dumps(told, indent=1, sort_keys=True), encoding="utf-8")
    assert done > 20 * examples
    seen = set(PoolMachine.all_kinds)
    assert seen >= (OFTEN if small else OFTEN | SELDOM), sorted((OFTEN | SELDOM) - seen)
