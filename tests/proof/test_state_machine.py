"""The real scripts on a real server, held against a plain model after every step, in every order Hypothesis thinks of.

Time is moved by the test, in steps of ten seconds; all spans end on fives, so that the real milliseconds that pass
meanwhile decide nothing. ``GPUBROKER_PROOF_EXAMPLES`` sets how many runs there are, ``GPUBROKER_PROOF_COUNT`` names a
file that is told how many steps were taken.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker import Broker, LeaseConflict, LeaseLost, LeaseNotFound, StaleToken, answers, calls
from broker.audit import Audit
from broker.embedded import EmbeddedServer
from broker.errors import PoolUnavailable
from broker.fsck import differences
from broker.lease import Lease
from broker.publish import Publisher
from broker.units import GIB
from broker.values import State
from tests.conftest import report
from tests.proof.clock import pass_time
from tests.proof.model import CLAIM, FRESH, GRACE, RECLAIM, TTL, WAITER, Card, Held, Model, Request

HOSTS = {"h1": ("GPU-a", "GPU-b"), "h2": ("GPU-c",)}
NAMES = st.sampled_from([f"job-{i}" for i in range(6)])
REQUESTS = st.builds(
    Request, st.sampled_from([GIB, 2 * GIB, 3 * GIB, 5 * GIB]), st.sampled_from([1, 1, 1, 2]),
    st.sampled_from([None, None, "h1", "h2"]), st.sampled_from([0, 0, 0, 5]), st.sampled_from(["default", "other"]),
)  # fmt: skip
STATES = st.sampled_from([State.OPTIMAL, State.OPTIMAL, State.THROTTLED, State.CRITICAL, State.UNAVAILABLE])

taken = {"steps": 0, "runs": 0}


class Ledger(RuleBasedStateMachine):
    """One pool and its model."""

    server: EmbeddedServer

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker.from_url(self.server.url)
        self.broker.redis.flushall()
        self.model, self.account, self.after = Model(), Audit(), "0"
        self.holders: dict[str, Lease] = {}
        self.agents = {host: Publisher(self.broker, host) for host in HOSTS}
        self.lost = False
        taken["runs"] += 1

    def teardown(self) -> None:
        self.broker.close()

    @initialize()
    def begin(self) -> None:
        self.configure()
        for host in HOSTS:
            self.sample(host, State.OPTIMAL, 0)

    def configure(self) -> None:
        self.broker.update_config(
            reclaim_seconds=RECLAIM, claim_seconds=CLAIM, waiter_seconds=WAITER, grace_seconds=GRACE, bypass_max=2,
            monitor_interval=60,
        )  # fmt: skip

    # -- agents ------------------------------------------------------------------------------------------------------

    @rule(host=st.sampled_from(sorted(HOSTS)), state=STATES, unmanaged=st.sampled_from([0, 0, GIB, 3 * GIB]))
    def sample(self, host: str, state: State, unmanaged: int) -> None:
        cards = [
            report(u, i, state=state, job_state=state, unmanaged_bytes=unmanaged) for i, u in enumerate(HOSTS[host])
        ]
        told = self.agents[host].epoch
        self.agents[host].publish(cards, FRESH * 1000 // 3)
        if told not in (0, self.agents[host].epoch) and self.model.settling_until == 0:
            self.model.settling_until = self.model.now + GRACE
        for uuid in HOSTS[host]:
            card = self.model.cards.setdefault(uuid, Card(uuid, host))
            card.state, card.unmanaged, card.fresh_until = state.value, unmanaged, self.model.now + FRESH
        self.settle()

    @rule(uuid=st.sampled_from(["GPU-a", "GPU-b", "GPU-c"]), on=st.booleans())
    def drain(self, uuid: str, on: bool) -> None:
        if uuid not in self.model.cards:
            return
        (self.broker.drain if on else self.broker.undrain)(uuid)
        self.model.cards[uuid].drained = on
        self.settle()

    # -- holders -----------------------------------------------------------------------------------------------------

    @rule(name=NAMES, request=REQUESTS, wait=st.booleans(), twice=st.booleans())
    def acquire(self, name: str, request: Request, wait: bool, twice: bool) -> None:
        asked = calls.ask(
            request.size, lease_id=name, ttl=TTL, wait=60 if wait else 0, gpus=request.gpus, host=request.host,
            priority=request.priority, tenant=request.tenant,
        )  # fmt: skip
        expected = self.foretold(name, request)
        try:
            reply = self.broker.call("acquire", *asked.asking(wait))
            if twice and reply[0] in ("granted", "waiting"):  # its reply was lost
                again = self.broker.call("acquire", *asked.asking(wait))
                assert again[0] in ("granted", "waiting")
                assert reply[0] != "granted" or again[1] == reply[1]
                reply = again
        except expected or ():
            return
        assert expected is None, f"{expected} was due, the ledger said {reply}"
        self.take_over(name, request, asked, reply)

    def foretold(self, name: str, request: Request) -> type[Exception] | None:
        """The error that is due under a name."""
        lease, waiting = self.model.leases.get(name), self.model.waiters.get(name)
        if lease is not None:
            if lease.request != request:
                return LeaseConflict
            over = lease.state == "reclaiming" or (lease.ends <= self.model.now and not self.model.settling)
            return LeaseLost if over and lease.state != "granted" else None
        return LeaseConflict if waiting is not None and waiting != request else None

    def take_over(self, name: str, request: Request, asked: calls.Ask, reply: list[str]) -> None:
        model, before = self.model, self.model.leases.get(name)
        answer = reply[0]
        if answer == "granted":
            granted = answers.read_acquire(reply, asked)
            assert isinstance(granted, answers.Granted)
            if before is not None and before.token == granted.token:
                if before.state == "granted":
                    before.state, before.ends = "active", model.now + TTL
            else:
                self.end_waiting(name)
                self.settle(but=name)
                assert not (why := model.lawful(request, granted.gpu_uuids)), why
                self.granted(name, request, granted.token, granted.gpu_uuids, "active", model.now + TTL)
            self.holders[name] = Lease(self.broker, granted)
        elif answer == "waiting":
            model.waiters[name] = request
            model.beats[name] = model.now + WAITER
        else:
            self.end_waiting(name)
        self.settle()
        if answer in ("waiting", "refused") and name not in model.leases:
            assert not model.has_room(request, self.kept()), f"{answer} though there is room for {request}"

    def end_waiting(self, name: str) -> None:
        self.model.waiters.pop(name, None)
        self.model.beats.pop(name, None)

    def granted(self, name: str, request: Request, token: int, uuids: tuple[str, ...], state: str, ends: float) -> None:
        assert token > self.model.highest_token, "law 5: a token that does not grow"
        self.model.highest_token = token
        self.model.leases[name] = Held(name, token, uuids, request.size, request, state, ends)

    def held(self, name: str) -> tuple[Lease | None, type[Exception] | None]:
        """The lease that somebody believes to hold under a name, and the error that is due if it uses its token."""
        holder, lease = self.holders.get(name), self.model.leases.get(name)
        if holder is None:
            return None, None
        if lease is None:
            return holder, Exception  # which of lost, stale, not found: told apart by other tests
        if lease.token != holder.token:
            return holder, StaleToken
        over = lease.state == "reclaiming" or (lease.ends <= self.model.now and not self.model.settling)
        return holder, LeaseLost if over else None

    @rule(name=NAMES)
    def renew(self, name: str) -> None:
        holder, due = self.held(name)
        if holder is None:
            return
        try:
            holder.renew()
        except (LeaseLost, StaleToken, LeaseNotFound, PoolUnavailable):
            assert due is not None
        else:
            lease = self.model.leases.get(name)
            if lease is None:  # the ledger had lost it: it is there again
                assert self.lost
                assert holder.claim is not None
                bytes_, uuids = int(holder.claim.argv[3]), holder.gpu_uuids
                request = Request(bytes_, len(uuids), None, 0, str(holder.claim.argv[5]))
                known = self.requests.get(name, request)
                self.model.leases[name] = Held(name, holder.token, uuids, bytes_, known, "active", self.model.now + TTL)
            else:
                assert due is None
                lease.state = "active"
                lease.ends = min(self.model.now + TTL, lease.revoke_at or self.model.now + TTL)
        self.settle()

    @property
    def requests(self) -> dict[str, Request]:
        return self._requests if hasattr(self, "_requests") else {}

    @rule(name=NAMES, twice=st.booleans())
    def release(self, name: str, twice: bool) -> None:
        holder, due = self.held(name)
        if holder is None:
            return
        try:
            holder.release()
            if twice:
                holder.release()
        except (LeaseLost, StaleToken, LeaseNotFound):
            assert due in (StaleToken, Exception)
        else:
            lease = self.model.leases.get(name)
            if lease is not None and lease.token == holder.token:
                del self.model.leases[name]
        self.settle()

    @rule(name=NAMES, more=st.integers(1, 9))
    def stale_token(self, name: str, more: int) -> None:
        lease = self.model.leases.get(name)
        if lease is None:
            return
        for use in (self.broker.renew, self.broker.release, self.broker.check):
            with pytest.raises(StaleToken):
                use(name, lease.token - more)

    @rule(name=NAMES, size=st.sampled_from([GIB, 2 * GIB, 4 * GIB]))
    def resize(self, name: str, size: int) -> None:
        holder, due = self.held(name)
        if holder is None or due is not None:
            return
        reply = self.broker.call("resize", name, holder.token, size, 0, "")
        lease = self.model.leases[name]
        if reply[0] == "resized":
            if size > lease.size:
                for uuid in lease.uuids:
                    card = self.model.cards[uuid]
                    assert self.model.open(card)
                    assert self.model.leased(uuid) + size - lease.size <= card.budget
            lease.size = size
            holder.memory_bytes = size
            holder.claim = holder.claim and holder.claim.changed(memory_bytes=size)
        self.settle()

    @rule(name=NAMES)
    def revoke(self, name: str) -> None:
        lease = self.model.leases.get(name)
        if lease is None or lease.state != "active" or lease.ends <= self.model.now or self.model.settling:
            return
        self.broker.revoke(name, grace=15)
        at = self.model.now + 15
        lease.revoke_at = min(lease.revoke_at or at, at)
        lease.ends = min(lease.ends, lease.revoke_at)
        self.settle()

    @rule(name=NAMES)
    def cancel(self, name: str) -> None:
        lease = self.model.leases.get(name)
        done = self.broker.cancel(name)
        assert done == (name in self.model.waiters or (lease is not None and lease.state == "granted"))
        self.end_waiting(name)
        if done and lease is not None:
            del self.model.leases[name]
        self.settle()

    # -- the world ---------------------------------------------------------------------------------------------------

    @rule()
    def ten_seconds(self) -> None:
        self.model.now += 10
        pass_time(self.broker, 10_000)
        self.broker.reap()
        self.settle()

    @rule(quota=st.sampled_from([0, 2 * GIB, 6 * GIB]))
    def set_quota(self, quota: int) -> None:
        self.broker.set_tenant("other", quota=quota)
        self.model.quotas["other"] = quota
        self.settle()

    @rule()
    def forget_scripts(self) -> None:
        self.broker.redis.script_flush()

    @precondition(lambda self: not self.lost)
    @rule()
    def lose_all(self) -> None:
        """The ledger's data is gone; who held something still does."""
        epoch = self.broker.epoch()
        self._requests = {name: lease.request for name, lease in self.model.leases.items()}
        self.broker.redis.flushdb()
        while int(self.broker.redis.time()[0]) - 1735689600 <= epoch:  # type: ignore[index]
            continue
        self.lost = True
        quotas, token, now = {}, self.model.highest_token, self.model.now
        self.model = Model(now=now, quotas=quotas, highest_token=token)
        self.account, self.after = Audit(), "0"
        self.configure()

    # -- after every step --------------------------------------------------------------------------------------------

    def kept(self) -> set[str]:
        return {uuid for waiter in self.broker.waiters() for uuid in (waiter.reserved_gpus or "").split(",") if uuid}

    def settle(self, but: str = "") -> None:
        """Take over what the script did on its way, if it was lawful."""
        model = self.model
        model.end_what_is_over()
        there = {lease.id: lease for lease in self.broker.leases()}
        for name, request in list(model.waiters.items()):
            if name in there and name != but:  # served by somebody's script
                self.end_waiting(name)
                uuids = tuple(there[name].gpu_uuids.split(","))
                assert not (why := model.lawful(request, uuids)), f"{name} was served: {why}"
                self.granted(name, request, there[name].token, uuids, "granted", model.now + CLAIM)

    @invariant()
    def agrees(self) -> None:
        taken["steps"] += 1
        there = {lease.id: lease for lease in self.broker.leases()}
        assert sorted(there) == sorted(self.model.leases)
        for name, lease in self.model.leases.items():
            real = there[name]
            assert (real.token, real.memory_bytes, real.state) == (lease.token, lease.size, lease.state), name
        assert sorted(waiter.id for waiter in self.broker.waiters()) == sorted(self.model.waiters)
        for gpu in self.broker.gpus():
            assert gpu.leased_bytes == self.model.leased(gpu.uuid)

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Law 7: whoever could be served has been, unless what is there is kept for another, or is not to be passed."""
        if self.broker.redis.hget(self.broker.keys.ledger, "unserved"):
            return
        kept = self.kept()
        for name, request in self.model.waiters.items():
            assert not self.model.has_room(request, kept), f"{name} waits though there is room for {request}"

    @invariant()
    def adds_up(self) -> None:
        assert differences(self.broker) == []
        for event in self.broker.events(self.after):
            self.account.add(event)
            self.after = event.stream_id
        # The journal's own times were not moved with the ledger's: what hangs on them the model has judged.
        assert [told for told in self.account.violations if not told.startswith(("law 3,", "law 11,"))] == []


@pytest.fixture
def told() -> Iterator[None]:
    yield
    if path := os.environ.get("GPUBROKER_PROOF_COUNT"):
        Path(path).write_text(json.dumps(taken))


@pytest.mark.timeout(0)
def test_the_ledger_does_as_the_model_says(redis_server: EmbeddedServer, told: None) -> None:
    examples = int(os.environ.get("GPUBROKER_PROOF_EXAMPLES", "25"))
    machine = type("LedgerHere", (Ledger,), {"server": redis_server})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, database=None,
            derandomize="GPUBROKER_PROOF_EXAMPLES" not in os.environ, suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # to shrink a run of 40 steps takes longer than to read it
        ),
    )  # fmt: skip
