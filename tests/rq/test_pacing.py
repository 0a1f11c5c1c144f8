"""A job's questions while it works: how fast, and whether at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from broker import Broker, LeaseLost, PoolUnavailable, State
from broker.errors import BrokerError, InvalidRequest
from broker.publish import Publisher
from tests.conftest import report
from tests.rq import jobs
from tests.rq.conftest import PATIENCE, Stage
from worker_hooks import at_speed, current_lease, holding, pace, paced, pacing, throttle
from worker_hooks.environment import entered


def of_state(state: State) -> dict[str, object]:
    return {"state": state, "job_state": state, "reason": f"made {state}"}


def follows(stage: Stage, alive: Callable[[], bool]) -> None:
    """Wait until somebody follows the journal."""
    while not any("xread" in client["cmd"] for client in stage.redis.client_list()):
        assert alive(), "it did not pause"


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
    follows(stage, lambda: not got)
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


# -- patience ----------------------------------------------------------------------------------------------------------

OURS = ["worker_hooks.GpuWorker", "worker_hooks.GpuSpawnWorker", "worker_hooks.GpuSimpleWorker"]


@pytest.mark.parametrize("kind", [*OURS, "rq.worker.Worker"])
def test_a_job_whose_patience_is_over_goes_on_on_another_card(stage: Stage, kind: str) -> None:
    job = jobs.impatient_with_heat.delay()
    stage.worker(kind)
    assert stage.hear()["device"] == "GPU-a"
    hot, other = report("GPU-a", **of_state(State.CRITICAL)), report("GPU-b", 1)  # type: ignore[arg-type]
    Publisher(stage.broker, "h1").publish([hot, other], 600_000)
    stage.go()
    assert stage.hear()["device"] == "GPU-b"
    stage.go()
    assert stage.outcome(job) == "8"
    job.refresh()
    assert job.meta["gpu"]["again_reason"] == "still CRITICAL after 0.2 s: made CRITICAL"


def test_a_job_that_was_moved_and_finds_no_other_card_is_parked_until_there_is_one(
    stage: Stage, cards: Callable[..., None]
) -> None:
    job = jobs.impatient_with_heat.delay()
    stage.worker()
    stage.hear()
    cards("GPU-a", **of_state(State.CRITICAL))
    stage.go()
    stage.parked(job)
    assert stage.broker.leases() == []
    cards("GPU-a", **of_state(State.NORMAL))
    assert stage.hear()["device"] == "GPU-a"
    stage.go()
    assert stage.outcome(job) == "6"


def test_a_card_that_is_better_in_time_keeps_its_job(stage: Stage, cards: Callable[..., None]) -> None:
    cards("GPU-a", **of_state(State.CRITICAL))
    got: list[int] = []
    job = threading.Thread(target=lambda: got.append(pace(10, patience=60)))
    job.start()
    follows(stage, job.is_alive)
    cards("GPU-a", **of_state(State.NORMAL))
    job.join(PATIENCE)
    assert got == [8]


def test_where_nobody_can_be_moved_the_end_of_patience_is_a_clear_error(
    stage: Stage, cards: Callable[..., None]
) -> None:
    lease = stage.broker.acquire("1GiB")
    cards("GPU-a", **of_state(State.CRITICAL))
    with entered(lease), pytest.raises(BrokerError, match=r"still CRITICAL after 0.01 s: .* RQ job"):
        pace(10, patience=0.01)


@pytest.mark.parametrize("wrong", [
    {"full_batch": 0}, {"full_batch": -1}, {"full_batch": 2.5}, {"full_batch": True}, {"patience": -1},
    {"patience": float("nan")}, {"patience": float("inf")}, {"patience": True}, {"patience": "60"},
])  # fmt: skip
def test_bad_input_is_refused_before_anything_is_asked(wrong: dict[str, object]) -> None:
    asked = {"full_batch": 8} | wrong
    for refuses in (lambda: pace(**asked), lambda: paced([1], **asked)):  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest) as refused:
            refuses()
        assert refused.value.field == next(iter(wrong))


# -- batches and rest --------------------------------------------------------------------------------------------------


def test_batches_are_all_items_in_order_and_follow_the_speed(
    stage: Stage, cards: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "FRESH_SECONDS", 0.0)
    batches = paced(iter(range(20)), 8)
    got = [next(batches)]
    cards("GPU-a", **of_state(State.THROTTLED))
    got += batches
    assert [len(batch) for batch in got] == [8, 4, 4, 4]
    assert [item for batch in got for item in batch] == list(range(20))


def test_nothing_to_do_waits_for_no_speed(stage: Stage, cards: Callable[..., None]) -> None:
    cards("GPU-a", **of_state(State.CRITICAL))
    assert list(paced([], 8)) == []


def test_work_at_half_speed_rests_as_long_as_it_took(stage: Stage, cards: Callable[..., None]) -> None:
    cards("GPU-a", **of_state(State.THROTTLED))
    begun = time.monotonic()
    with at_speed() as now:
        time.sleep(0.2)
        assert (now.state, now.speed) == (State.THROTTLED, 0.5)
    assert time.monotonic() - begun >= 0.4


def test_work_at_full_speed_does_not_rest(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    work = at_speed()(lambda: time.sleep(0.05))
    monkeypatch.setattr(pacing.time, "sleep", rests.append)
    work()
    assert rests == [0.05, 0.0]


def test_a_long_rest_ends_when_the_card_is_better(stage: Stage, cards: Callable[..., None]) -> None:
    cards("GPU-a", **of_state(State.THROTTLED))
    throttle()
    rest = threading.Thread(target=pacing._rest, args=(3600.0,))
    rest.start()
    follows(stage, rest.is_alive)
    cards("GPU-a", **of_state(State.OPTIMAL))
    rest.join(PATIENCE)
    assert not rest.is_alive()


def test_a_long_rest_ends_when_the_lease_is_lost(
    stage: Stage, cards: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "FRESH_SECONDS", 0.0)
    lease = stage.broker.acquire("1GiB")
    cards("GPU-a", **of_state(State.THROTTLED))
    with entered(lease):
        rest = threading.Thread(target=pacing._rest, args=(3600.0,))
        rest.start()
        follows(stage, rest.is_alive)
        lease.release()
        rest.join(PATIENCE)
        assert not rest.is_alive()
        with pytest.raises(LeaseLost), at_speed():
            pytest.fail("the next work does not begin")


def test_work_that_is_done_is_not_lost_because_redis_is_away(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Broker.from_url("redis://127.0.0.1:1")
    with at_speed():
        monkeypatch.setattr(pacing, "FRESH_SECONDS", 0.0)
        monkeypatch.setattr(pacing, "get_broker", lambda: away)
    with pytest.raises(PoolUnavailable), at_speed():
        pytest.fail("nobody knows whether the card is well")


def test_work_that_failed_is_not_rested_from(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_rest", lambda worked: pytest.fail("it rested"))

    @at_speed()
    def work() -> None:
        raise ValueError("the photo is broken")

    with pytest.raises(ValueError, match="broken"):
        work()


def test_a_decorated_function_may_call_itself_and_keeps_its_name(stage: Stage) -> None:
    @at_speed(patience=60)
    def down(number: int) -> int:
        return number and down(number - 1)

    assert (down(3), down.__name__) == (0, "down")


def test_what_would_be_over_before_its_work_is_refused() -> None:
    async def later() -> None: ...

    def some() -> Iterator[int]:
        yield 1

    for function in (later, some):
        with pytest.raises(InvalidRequest, match="a plain function"):
            at_speed()(function)
