"""The driver of the comparison with peers: what it counts, what it times, and how it shows who is not there."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from benchmarks import frame
from benchmarks.peer import driver, facts, ours, semaphore, tables
from benchmarks.peer.far import Far, FarError
from benchmarks.peer.found import Back, Losses, Results
from benchmarks.peer.overlap import most_at_once, over_admitted
from benchmarks.peers import rounds
from broker.embedded import EmbeddedServer

BROKEN = "tests.bench.broken_peer"


class Broken:
    """A peer that is broken on purpose, as the driver sees it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def started(self, url: str) -> Far:
        return Far.python(BROKEN, url, self.kind)


@pytest.fixture(scope="module")
def lockers(redis_server: EmbeddedServer) -> Iterator[tuple[Far, Far]]:
    """Two clients of redis-py's lock; each test leaves them as it found them."""
    with Far.python("redis_py", redis_server.url) as one, Far.python("redis_py", redis_server.url) as other:
        yield one, other


# -- counting ----------------------------------------------------------------------------------------------------------


def test_spans_that_only_touch_were_one_after_the_other() -> None:
    assert most_at_once([(0, 1), (1, 2), (2, 3)]) == 1


def test_the_most_that_overlap_are_counted() -> None:
    assert most_at_once([(0, 10), (1, 3), (2, 4), (5, 6)]) == 3


def test_loans_of_different_names_do_not_overlap() -> None:
    assert over_admitted([("a", 0, 5), ("b", 1, 4)]) == 0


def test_loans_beyond_capacity_are_summed_over_names() -> None:
    spans = [("a", 0.0, 5.0), ("a", 1.0, 4.0), ("b", 0.0, 5.0), ("b", 1.0, 4.0), ("b", 2.0, 3.0)]
    assert over_admitted(spans) == 3
    assert over_admitted(spans, capacity=2) == 1


def test_a_peer_that_admits_two_is_caught(redis_url: str) -> None:
    found = driver.lost_replies(Broken("AdmitsTwo"), redis_url, [[f"n{i}" for i in range(8)]], every=10_000, hold=0.05)
    assert found.over > 0
    assert found.lost == 0


def test_a_loan_that_its_taker_does_not_know_of_is_a_leak(redis_url: str) -> None:
    # Every second reply: whoever takes is told nothing, tries again, and is refused by its own loan.
    found = driver.lost_replies(Broken("Forgets"), redis_url, [["a", "b"]], clients=1, every=2, hold=0)
    assert found.lost > 0
    assert found.leaked > 0
    assert found.over == 0


def test_a_lease_survives_lost_replies(redis_url: str) -> None:
    names = ["a", "b", "c"]
    ours.stock(redis_url, "default", names)
    found = driver.lost_replies(facts.OURS, redis_url, [names], clients=2, every=4)
    assert found.lost > 0
    assert (found.over, found.leaked, found.errors) == (0, 0, 0)


# -- timing ------------------------------------------------------------------------------------------------------------


def test_a_killed_holders_recovery_is_timed_from_the_kill(redis_url: str, lockers: tuple[Far, Far]) -> None:
    # Whose lock nobody gives back: it is deleted a while after the kill, and that while is what is told.
    with Far.python("redis_py", redis_url) as holder:
        freed: list[float] = []
        kill = holder.kill

        def kill_and_free() -> float:
            killed = kill()
            holder.process.wait()
            with Redis.from_url(redis_url) as redis:
                time.sleep(0.5)
                freed.append(time.perf_counter() - killed)
                redis.delete("x")
            return killed

        holder.kill = kill_and_free  # type: ignore[method-assign]
        found = driver.recovery(holder, lockers[1], "x", cap=20)
        lockers[1].call("release")
    assert found.seconds is not None
    assert freed[0] <= found.seconds < 20


def test_who_never_gets_it_back_is_shown_by_the_cap(redis_url: str) -> None:
    with Far.python("redis_py", redis_url) as holder, Far.python("redis_py", redis_url) as waiter:
        found = driver.recovery(holder, waiter, "x", cap=0.5)
    assert found == Back(None, 0.5)
    assert tables.back(found) == "> 0.5"


def test_a_hand_over_is_from_the_release_to_the_waiters_answer(redis_url: str, lockers: tuple[Far, Far]) -> None:
    assert 0 < driver.hand_over(*lockers, "x", 0.1, random.Random(1)) < 5000


class TooSlow:
    """A waiter whose question always comes with the release: it never waited."""

    def __init__(self) -> None:
        self.asked = 0

    def tell(self, *_: Any) -> None:
        self.asked += 1

    def result(self, _: float) -> dict[str, Any]:
        return {"held": True, "asked": time.perf_counter(), "at": time.perf_counter()}

    def call(self, method: str, *_: Any) -> Any:
        return {"held": True} if method == "acquire" else time.perf_counter()


def test_a_waiter_that_did_not_wait_is_no_hand_over() -> None:
    waiter = TooSlow()
    with pytest.raises(FarError, match="never in time"):
        driver.hand_over(TooSlow(), waiter, "x", 0, random.Random(1))
    assert waiter.asked > 1


def test_a_dead_process_does_not_run_though_nobody_waited_for_it() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert driver.runs(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still an entry
    assert not driver.runs(process.pid)
    process.communicate()


def test_a_slow_machine_runs_fewer_rounds_but_two_that_count() -> None:
    assert list(rounds(5, 12, clock=itertools.count(0, 1).__next__)) == [-1, 0, 1, 2, 3, 4]
    assert list(rounds(5, 12, clock=itertools.count(0, 20).__next__)) == [-1, 0, 1]


# -- who is not there --------------------------------------------------------------------------------------------------


def test_a_peer_that_is_not_installed_appears_as_such() -> None:
    gone = facts.Peer("gone", "gone", "no_such_library", ())
    assert gone.missing() == facts.NOT_INSTALLED
    found = Results(missing={"Ray fractional GPUs": facts.NOT_INSTALLED})
    rows = [row for table in tables.all_of(found) for row in table.rows if "Ray fractional GPUs" in row]
    assert len([row for row in rows if facts.NOT_INSTALLED in row]) == 3  # hand-over, jobs, kills


def test_without_npm_the_semaphore_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(semaphore, "FOLDER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert semaphore.missing() == "not installed: there is no node and npm"


def test_a_peer_that_fails_is_told_in_its_row_with_its_reason() -> None:
    found = Results(failed={("limits", "pair"): "RuntimeError: no"})
    row = next(row for row in tables.all_of(found)[0].rows if row[0] == "limits")
    assert row[-1] == "RuntimeError: no"


def test_a_process_that_ends_says_its_last_word(redis_url: str) -> None:
    with pytest.raises(FarError, match="no_such_module"):
        Far.python("no_such_module", redis_url).__enter__()


def test_an_error_of_a_call_is_the_drivers_to_tell(redis_url: str, lockers: tuple[Far, Far]) -> None:
    with pytest.raises(FarError, match="AttributeError"):
        lockers[0].call("no_such_call")


# -- telling -----------------------------------------------------------------------------------------------------------


def full() -> Results:
    """Something of everything."""
    found = Results()
    for at, peer in enumerate((*facts.LENDERS, *facts.QUEUES, *facts.AROUND_JOBS), start=1):
        found.pair_us[peer.name], found.bare_us[peer.name] = [100.0 * at], [50.0]
        found.hand_ms[peer.name], found.job_ms[peer.name] = [1.0 * at, 2.0 * at], [1.0 * at]
        found.killed[peer.name, "the job's process"] = Back(None if at == 2 else 0.5 * at, 20.0, at == 3)
    found.losses = {peer.name: Losses(9, 20, 0, at, 1) for at, peer in enumerate(facts.LENDERS)}
    return found


def test_every_row_is_as_wide_as_its_table_and_every_peer_has_a_word_for_each_law() -> None:
    for table in tables.all_of(full()):
        assert all(len(row) == len(table.columns) for row in table.rows), table.title
        frame.columns(table)


def test_what_was_not_measured_is_not_in_the_raw_figures() -> None:
    found = Results()
    found.pair_us["gpubroker"] = [1.0, 2.0, 9.0]
    tables.all_of(found)
    assert tables.raw(found)["pair_us"] == {"gpubroker": 2.0}
    assert tables.raw(found)["hand_ms"] == {}


def test_where_a_peer_is_ahead_the_aim_is_missed_and_says_why() -> None:
    found = full()
    assert all(goal.met for goal in tables.goals(found) if goal.name.startswith("borrow"))
    found.pair_us["redis-py Lock"] = [10.0]
    missed = [goal for goal in tables.goals(found) if goal.name == "borrow and give back, × redis-py Lock"]
    assert len(missed) == 1
    assert not missed[0].met
    assert missed[0].why


def test_what_failed_of_ours_is_missed_and_not_left_out() -> None:
    found, names = full(), [goal.name for goal in tables.goals(full())]
    ours, queue = facts.OURS.name, facts.QUEUES[0].name
    del found.pair_us[ours], found.hand_ms[ours], found.losses[ours]
    del found.job_ms[queue], found.hand_ms[queue], found.killed[queue, "the job's process"]
    found.failed = {(ours, "start"): "no", (queue, "start"): "nor this"}
    goals = {goal.name: goal for goal in tables.goals(found)}
    assert set(names) <= set(goals)
    assert not any(goals[name].met for name in names if "plain script" not in name)
    assert {goal.why for goal in goals.values()} <= {"no", "nor this", ""}


def test_aims_are_of_the_measure_that_they_name() -> None:
    found = full()
    ours, queue = facts.OURS.name, facts.QUEUES[0].name
    found.pair_us[ours], found.hand_ms[ours] = [10.0], [9.0]
    found.pair_us["limits"], found.hand_ms["limits"] = [20.0], [90.0]
    found.hand_ms[queue], found.job_ms[queue] = [3.0], [5.0]
    found.hand_ms["RQ RateLimit"], found.job_ms["RQ RateLimit"] = [4.0], [50.0]
    seen = {goal.name: goal.seen for goal in tables.goals(found)}
    assert seen["borrow and give back, × limits"] == pytest.approx(0.5)
    assert seen["hand-over, × limits"] == pytest.approx(0.1)
    assert seen["hand-over of a job, × RQ RateLimit"] == pytest.approx(0.75)
    assert seen["a job that does nothing, × RQ RateLimit"] == pytest.approx(0.1)


def test_a_pair_is_told_in_multiples_of_a_bare_call_by_the_same_client() -> None:
    found = full()
    found.pair_us["limits"], found.bare_us["limits"] = [200.0], [50.0]
    table = tables.all_of(found)[0]
    row = next(row for row in table.rows if row[0] == "limits")
    assert row[table.columns.index("× bare EVALSHA")] == 4
    assert row[table.columns.index("pairs/s")] == 5000


def test_a_lease_of_a_killed_job_that_never_came_back_misses_its_aim() -> None:
    found = full()
    found.killed[facts.QUEUES[0].name, "the job's process"] = Back(None, 20.0)
    goal = next(goal for goal in tables.goals(found) if "killed" in goal.name)
    assert goal.seen == 20.0
    assert not goal.met


def test_the_picture_is_drawn_of_whoever_was_there(tmp_path: Any) -> None:
    for found in (full(), Results()):
        told = frame.Found("peers", "", "", tables.all_of(found), tables.goals(found), tables.raw(found))
        frame.Run(tmp_path, as_json=True, long=False).tell(told, tables.draw)
        assert (tmp_path / "peers.png").stat().st_size > 0


@pytest.mark.parametrize("how", ["plain", "lease"])
def test_a_burst_is_timed_by_its_jobs_and_not_by_its_workers_start(redis_url: str, how: str) -> None:
    with Far.python("rq_jobs", redis_url, how) as far:
        begun = time.perf_counter()
        took = far.call("burst", 3)
        whole = time.perf_counter() - begun
    assert 0 < 3 * took < whole / 2
