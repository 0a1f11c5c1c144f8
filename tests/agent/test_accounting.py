"""Whose bytes are whose."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.accounting import unmanaged_bytes
from agent.processes import ProcessTable
from agent.sources import Process, Reading
from broker.units import GIB
from broker.values import HeldLease


def reading(*processes: Process, used: int | None = 4 * GIB) -> Reading:
    return Reading("GPU-a", 0, "card", 8 * GIB, used, 0, processes=processes)


def lease(pid: int | None, size: int = 2 * GIB) -> HeldLease:
    return HeldLease(f"l{pid}", size, pid, "active", 0)


def test_a_stranger_is_unmanaged_and_a_holder_is_not() -> None:
    card = reading(Process(10, GIB), Process(20, 3 * GIB))
    assert unmanaged_bytes(card, [lease(10)], {}) == 3 * GIB


def test_a_holders_children_are_its_own() -> None:
    card = reading(Process(12, 3 * GIB), used=3 * GIB)
    assert unmanaged_bytes(card, [lease(10)], {12: 11, 11: 10, 10: 1}) == 0
    assert unmanaged_bytes(card, [lease(10)], {12: 11, 11: 1}) == 3 * GIB


def test_where_a_process_does_not_say_what_it_uses_all_beyond_the_leases_is_unmanaged() -> None:
    assert unmanaged_bytes(reading(Process(10, None)), [lease(10, GIB)], {}) == 3 * GIB
    assert unmanaged_bytes(Reading("GPU-a", 0, "card", 8 * GIB, GIB, 0), [lease(10)], {}) == 0


def test_a_lease_that_names_no_process_covers_as_much_as_it_asked_for() -> None:
    assert unmanaged_bytes(reading(Process(10, 4 * GIB)), [lease(None, 3 * GIB)], {}) == GIB


def test_a_lease_whose_process_has_taken_nothing_yet_excuses_no_stranger() -> None:
    assert unmanaged_bytes(reading(Process(20, 4 * GIB)), [lease(10, 3 * GIB)], {}) == 4 * GIB


def test_a_driver_that_sizes_only_some_processes_hides_no_stranger_behind_a_lease() -> None:
    card = reading(Process(10, None), Process(20, 3 * GIB))
    assert unmanaged_bytes(card, [lease(10, 2 * GIB)], {}) == 3 * GIB


def test_memory_that_no_listed_process_holds_is_unmanaged() -> None:
    """As inside a container, where NVML lists nobody."""
    assert unmanaged_bytes(reading(), [], {}) == 4 * GIB
    assert unmanaged_bytes(reading(), [lease(10, 3 * GIB)], {}) == GIB


def test_what_a_driver_reserves_for_itself_excuses_nobody() -> None:
    card = Reading("GPU-a", 0, "card", 8 * GIB, GIB, memory_reserved_bytes=GIB // 2, processes=None)
    assert unmanaged_bytes(card, [], {}) == GIB


def test_two_leases_of_one_process_are_filled_together() -> None:
    both = [HeldLease("a", 2 * GIB, 10, "active", 0), HeldLease("b", 2 * GIB, 10, "active", 0)]
    assert unmanaged_bytes(reading(Process(10, 3 * GIB)), both, {}) == 0
    assert unmanaged_bytes(reading(Process(10, 3 * GIB), used=5 * GIB), both, {}) == GIB


def test_a_lease_of_process_1_does_not_own_the_whole_host() -> None:
    assert unmanaged_bytes(reading(Process(20, 4 * GIB)), [lease(1)], {20: 7, 7: 1}) == 4 * GIB
    assert unmanaged_bytes(reading(Process(1, 4 * GIB)), [lease(1)], {}) == 0


def test_unknown_use_is_unknown() -> None:
    assert unmanaged_bytes(reading(used=None), [], {}) is None


PIDS = st.integers(2, 9)
PROCESSES = st.dictionaries(PIDS, st.none() | st.integers(0, GIB)).map(
    lambda listed: [Process(pid, size) for pid, size in listed.items()]
)
HELD = st.lists(st.tuples(st.none() | PIDS, st.integers(1, GIB)), max_size=5).map(
    lambda told: [HeldLease(f"l{i}", size, pid, "active", 0) for i, (pid, size) in enumerate(told)]
)
TREES = st.dictionaries(PIDS, st.integers(1, 9))


def seen(processes: list[Process]) -> int:
    return sum(process.memory_bytes or 0 for process in processes)


@given(PROCESSES, HELD, TREES, st.integers(0, 2 * GIB))
def test_no_byte_is_counted_twice(
    processes: list[Process], held: list[HeldLease], tree: dict[int, int], unseen: int
) -> None:
    used = seen(processes) + unseen
    own = seen([process for process in processes if process.pid in {lease.pid for lease in held}])
    found = unmanaged_bytes(reading(*processes, used=used), held, tree)
    assert found is not None
    assert 0 <= found <= used - own


@given(PROCESSES, HELD, TREES, st.integers(0, 2 * GIB))
def test_leases_and_unmanaged_cover_all_that_is_in_use(
    processes: list[Process], held: list[HeldLease], tree: dict[int, int], unseen: int
) -> None:
    used = seen(processes) + unseen
    found = unmanaged_bytes(reading(*processes, used=used), held, tree)
    largest = seen(processes)  # no process, nor all children of one, takes more than this
    roomy = [replace(lease, memory_bytes=lease.memory_bytes + largest) for lease in held]
    covered = unmanaged_bytes(reading(*processes, used=used), roomy, tree)
    assert found is not None
    assert covered is not None
    assert covered <= found
    assert covered + sum(lease.memory_bytes for lease in roomy) >= used


def test_parents_are_read_from_proc() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    parents = ProcessTable().parents
    known = parents([child.pid])
    assert known[child.pid] == os.getpid()
    assert known[os.getpid()] == os.getppid()
    child.communicate(b"\n")
    assert parents([child.pid]) == {}


def test_what_is_seen_of_each_lease() -> None:
    from agent.accounting import strangers, verdicts

    one = HeldLease("one", 4, 10, "active", 0, token=1)
    gone = HeldLease("gone", 4, 0, "reclaiming", 0, token=2)
    other = HeldLease("other", 4, 20, "reclaiming", 0, token=3)
    nameless = HeldLease("nameless", 4, None, "reclaiming", 0, token=4)
    twins = [HeldLease(f"twin-{i}", 4, 40, "active", 0, token=5 + i) for i in range(2)]
    a = Reading("A", 0, "card", 100, 9, processes=(Process(10, 3), Process(11, 2), Process(99, 4)))
    b = Reading("B", 1, "card", 100, 9, processes=(Process(10, 1),))
    held = {"A": [one, gone, other, nameless, *twins], "B": [one]}
    family = {11: 10, 10: 1, 99: 1}
    lives = {"one": "alive", "gone": "gone", "other": "gone", "twin-0": "alive", "twin-1": "alive"}
    told = {v.id: (v.token, v.verdict, v.used_bytes, v.over_bytes) for v in verdicts([a, b], held, family, lives)}
    assert told == {
        "one": (1, "alive", 6, 1),  # its own and its child's bytes, on both of its cards; one too many on the first
        "gone": (2, "gone", 0, 0),
        "other": (3, "gone", 0, 0),
        "nameless": (4, "", None, None),
        "twin-0": (5, "alive", None, None),
        "twin-1": (6, "alive", None, None),
    }
    assert strangers(a, held["A"], family) == ((99, 4),)


def test_bytes_that_a_driver_does_not_tell_are_unknown() -> None:
    from agent.accounting import verdicts

    one = HeldLease("one", 4, 10, "active", 0, token=1)
    for processes in (None, (Process(10, None),)):
        (told,) = verdicts([Reading("A", 0, "card", 100, 9, processes=processes)], {"A": [one]}, {}, {"one": "alive"})
        assert (told.verdict, told.used_bytes) == ("alive", None)


def test_a_process_is_told_from_a_later_one_of_its_pid() -> None:
    import os
    import subprocess
    import sys

    from broker.process import began

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    own, childs = began(os.getpid()), began(child.pid)
    assert own is not None
    assert childs is not None
    assert int(own.partition("/")[0]) <= int(childs.partition("/")[0])
    assert began(os.getpid()) == own
    child.communicate(b"\n")
    assert began(child.pid) is None
