"""What befalls leases and processes that do not keep to what was lent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from agent.accounting import verdicts
from agent.policy import Look, Policy
from agent.processes import ProcessTable
from agent.sources import Process, Reading
from broker.errors import PoolUnavailable
from broker.thresholds import Thresholds
from broker.units import GIB
from broker.values import HeldLease, LeaseVerdict


class Stage:
    """A card, what is lent of it, and an agent's hand whose doings are written down."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[tuple[str, float, str]] = []
        self.fails = False
        self.policy = Policy(self.revoke, ProcessTable(), lambda: self.now)
        self.limits = Thresholds()
        self.leases = [HeldLease("job", GIB, 4_000_001, "active", 0, token=1)]
        self.processes: list[Process] = []
        self.card: dict[str, Any] = {"temperature_c": 50, "utilization_percent": 10}
        self.restart: dict[str, str] = {}

    def revoke(self, lease: HeldLease, grace: float, reason: str) -> None:
        if self.fails:
            raise PoolUnavailable("away")
        self.asked.append((lease.id, grace, reason))

    def look(self, seconds: float = 3.0) -> LeaseVerdict | None:
        """One look later; what is told of the first lease."""
        self.now += seconds
        reading = Reading("GPU-a", 0, "card", 8 * GIB, 4 * GIB, 0, processes=tuple(self.processes), **self.card)
        look = Look([reading], {"GPU-a": self.leases}, {})
        found = verdicts(look.readings, look.held, {}, {lease.id: "alive" for lease in self.leases})
        found = self.policy.idle(look, found, self.limits)
        self.policy.act(look, found, lambda uuid: self.limits, self.restart)
        return found[0] if found else None

    def configure(self, **changes: Any) -> None:
        self.limits = Thresholds.parse(self.limits.model_dump() | changes)


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_over_use_is_noticed_within_one_look_and_by_default_only_told(stage: Stage) -> None:
    stage.processes = [Process(4_000_001, GIB + 1)]
    told = stage.look()
    assert told is not None
    assert (told.used_bytes, told.over_bytes) == (GIB + 1, 1)
    stage.look(3600)
    assert stage.asked == []


def test_over_use_may_cost_the_lease(stage: Stage) -> None:
    stage.configure(overuse_policy="revoke", overuse_grace_seconds=7)
    stage.processes = [Process(4_000_001, 2 * GIB)]
    for _ in range(3):
        stage.look()
    assert stage.asked == [("job", 7.0, "it takes 1.0 GiB beyond its 1.0 GiB")]


def test_over_use_may_cost_the_process_once_the_grace_is_over(stage: Stage, victim: subprocess.Popen[bytes]) -> None:
    stage.configure(overuse_policy="kill", overuse_grace_seconds=7)
    stage.leases = [HeldLease("job", GIB, victim.pid, "active", 0, token=1)]
    stage.processes = [Process(victim.pid, 2 * GIB)]
    for _ in range(3):
        stage.look()
    assert victim.poll() is None
    stage.processes = [Process(victim.pid, GIB)]
    stage.look()  # it gave back what it had too much: its time begins anew
    stage.processes = [Process(victim.pid, 2 * GIB)]
    for _ in range(3):
        stage.look()
    assert victim.poll() is None
    stage.look()
    assert victim.wait(timeout=10) == -9


def test_idleness_is_told_after_its_time_and_ends_with_work(stage: Stage) -> None:
    stage.card["utilization_percent"] = 0
    told = [stage.look(100) for _ in range(5)]
    assert [verdict.idle_seconds for verdict in told if verdict] == [0, 0, 0, 300, 400]
    stage.card["utilization_percent"] = 1
    assert stage.look().idle_seconds == 0  # type: ignore[union-attr]


def test_a_busy_neighbour_does_not_hide_an_idle_lease(stage: Stage) -> None:
    stage.card["utilization_percent"] = 90
    stage.processes = [Process(4_000_001, GIB), Process(4_000_002, GIB, 90)]  # the driver names who did something
    assert [stage.look(200).idle_seconds for _ in range(3)] == [0, 0, 400]  # type: ignore[union-attr]


def test_what_no_card_tells_is_not_called_idle(stage: Stage) -> None:
    stage.card["utilization_percent"] = None
    assert stage.look(4000).idle_seconds is None  # type: ignore[union-attr]


def test_idleness_can_be_of_no_interest(stage: Stage) -> None:
    stage.configure(idle_seconds=0)
    stage.card["utilization_percent"] = 0
    assert [stage.look(4000).idle_seconds for _ in range(2)] == [0, 0]  # type: ignore[union-attr]


def test_a_card_that_is_far_too_hot_asks_its_holders_to_end_once(stage: Stage) -> None:
    stage.card["temperature_c"] = 89
    stage.look()
    assert stage.asked == []
    stage.card["temperature_c"] = 90
    stage.fails = True
    stage.look()
    stage.fails = False
    stage.look()
    stage.look()
    assert stage.asked == [("job", 30.0, "GPU GPU-a is at 90 °C")]


def test_jobs_on_a_card_with_a_contained_error_start_again(stage: Stage) -> None:
    stage.leases.append(HeldLease("over", GIB, 5, "reclaiming", 0, token=2))
    stage.restart = {"GPU-a": "XID 94"}
    stage.look()
    assert stage.asked == [("job", 0, "XID 94")]


@pytest.mark.parametrize("policy", ["report", "kill"])
def test_a_process_whose_lease_is_over_is_told_or_ended(
    stage: Stage, victim: subprocess.Popen[bytes], policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage.configure(orphan_policy=policy, orphan_grace_seconds=5)
    stage.processes = [Process(victim.pid, GIB)]
    stage.leases = [HeldLease("job", GIB, victim.pid, "active", 0, token=1)]
    stage.look()
    stage.leases = [HeldLease("job", GIB, victim.pid, "reclaiming", 0, token=1)]
    stage.look()
    stage.leases = []
    stage.look(1)
    assert caplog.text.count("event=orphan") == 1
    assert victim.poll() is None
    stage.look()
    stage.look()
    if policy == "kill":
        assert victim.wait(timeout=10) == -9
    else:
        assert victim.poll() is None


def test_a_process_whose_holder_gave_the_lease_back_is_no_orphan(
    stage: Stage, victim: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    stage.configure(orphan_policy="kill", orphan_grace_seconds=0)
    stage.processes = [Process(victim.pid, GIB)]
    stage.leases = [HeldLease("job", GIB, victim.pid, "active", 0, token=1)]
    stage.look()
    stage.leases = []
    stage.look()
    assert "event=orphan" not in caplog.text
    assert victim.poll() is None


def test_an_orphan_that_borrows_again_is_none_any_more(stage: Stage, victim: subprocess.Popen[bytes]) -> None:
    stage.configure(orphan_policy="kill", orphan_grace_seconds=5)
    stage.processes = [Process(victim.pid, GIB)]
    for name, lease_state in (("one", "reclaiming"), ("two", "active"), ("two", "active"), ("two", "active")):
        stage.leases = [HeldLease(name, GIB, victim.pid, lease_state, 0, token=1)]
        stage.look()
    assert victim.poll() is None


def test_a_stranger_is_never_ended(stage: Stage, victim: subprocess.Popen[bytes]) -> None:
    stage.configure(orphan_policy="kill", overuse_policy="kill", orphan_grace_seconds=0, overuse_grace_seconds=0)
    stage.processes = [Process(victim.pid, 4 * GIB)]
    for _ in range(3):
        stage.look()
    assert victim.poll() is None
