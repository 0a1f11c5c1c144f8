"""A job's questions while it works: how fast, and whether at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from broker import LeaseLost, State
from tests.rq.conftest import PATIENCE, Stage
from worker_hooks import current_lease, holding, pace, throttle
from worker_hooks.environment import entered


def of_state(state: State) -> dict[str, object]:
    return {"state": state, "job_state": state, "reason": f"made {state}"}


@pytest.mark.parametrize(
    ("state", "batch"), [(State.OPTIMAL, 10), (State.NORMAL, 8), (State.THROTTLED, 5)], ids=lambda value: str(value)
)
def test_a_batch_follows_the_speed(stage: Stage, cards: Callable[..., None], state: State, batch: int) -> None:
    cards("GPU-a", **of_state(state))
    assert pace(10) == batch


def test_a_batch_is_never_empty(stage: Stage, cards: Callable[..., None]) -> None:
    cards("GPU-a", **of_state(State.THROTTLED))
    assert pace(1) == 1


def test_throttle_gives_state_speed_and_reason(stage: Stage, cards: Callable[..., None]) -> None:
    cards("GPU-a", **of_state(State.THROTTLED))
    found = throttle()
    assert (found.state, found.speed, found.reason) == (State.THROTTLED, 0.5, "made THROTTLED")


def test_a_tight_loop_asks_the_ledger_seldom(stage: Stage) -> None:
    throttle()
    before = stage.redis.info("stats")["total_commands_processed"]
    for _ in range(1000):
        throttle()
    assert stage.redis.info("stats")["total_commands_processed"] - before < 20


def test_a_job_reads_its_own_gpu_and_not_the_worst(stage: Stage, cards: Callable[..., None]) -> None:
    cards("GPU-b", host="h2", **of_state(State.CRITICAL))
    with stage.broker.lease("1GiB", gpu="GPU-a") as lease, entered(lease):
        assert pace(10) == 10


def test_a_paused_job_goes_on_by_itself_when_the_state_is_better(stage: Stage, cards: Callable[..., None]) -> None:
    cards("GPU-a", **of_state(State.CRITICAL))
    got: list[tuple[int, float]] = []
    job = threading.Thread(target=lambda: got.append((pace(10), time.monotonic())))
    job.start()
    while not any("xread" in client["cmd"] for client in stage.redis.client_list()):
        assert not got, "it did not pause"
    better = time.monotonic()
    cards("GPU-a", **of_state(State.NORMAL))
    job.join(PATIENCE)
    batch, at = got[0]
    assert batch == 8
    assert at - better < 1.5  # pushed: its own look round comes after three seconds


def test_a_lost_lease_ends_the_loop(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "FRESH_SECONDS", 0.0)
    lease = stage.broker.acquire("1GiB")
    with entered(lease):
        assert pace(10) == 10
        lease.release()
        with pytest.raises(LeaseLost, match=lease.id):
            pace(10)


def test_a_paused_job_hears_that_its_lease_is_lost(
    stage: Stage, cards: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "FRESH_SECONDS", 0.0)
    lease = stage.broker.acquire("1GiB")
    cards("GPU-a", **of_state(State.CRITICAL))
    with entered(lease):
        assert not current_lease().lost  # type: ignore[union-attr]
        threading.Timer(0.2, lease.release).start()
        with pytest.raises(LeaseLost):
            pace(10)


def test_a_child_process_of_a_job_finds_its_lease_in_the_environment(stage: Stage) -> None:
    lease = stage.broker.acquire("1GiB")
    with entered(lease):
        found = current_lease()
        assert found is not None
        assert (found.id, found.token, found.gpu_uuids) == (lease.id, lease.token, ("GPU-a",))
    assert current_lease() is None
