"""Whose bytes are whose."""

from __future__ import annotations

import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from agent.accounting import unmanaged_bytes
from agent.processes import parents
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
    card = reading(Process(12, 3 * GIB))
    assert unmanaged_bytes(card, [lease(10)], {12: 11, 11: 10, 10: 1}) == 0
    assert unmanaged_bytes(card, [lease(10)], {12: 11, 11: 1}) == 3 * GIB


def test_where_a_process_does_not_say_what_it_uses_all_beyond_the_leases_is_unmanaged() -> None:
    assert unmanaged_bytes(reading(Process(10, None)), [lease(10, GIB)], {}) == 3 * GIB
    assert unmanaged_bytes(Reading("GPU-a", 0, "card", 8 * GIB, GIB, 0), [lease(10)], {}) == 0


def test_a_lease_that_names_no_process_covers_as_much_as_it_asked_for() -> None:
    assert unmanaged_bytes(reading(Process(10, 4 * GIB)), [lease(None, 3 * GIB)], {}) == GIB


def test_unknown_use_is_unknown() -> None:
    assert unmanaged_bytes(reading(used=None), [], {}) is None


@given(st.lists(st.tuples(st.integers(1, 9), st.none() | st.integers(0, GIB))), st.sets(st.integers(1, 9)))
def test_no_byte_is_counted_twice(listed: list[tuple[int, int | None]], holders: set[int]) -> None:
    processes = [Process(pid, size) for pid, size in dict(listed).items()]
    used = sum(process.memory_bytes or 0 for process in processes)
    found = unmanaged_bytes(reading(*processes, used=used), [lease(pid, GIB) for pid in holders], {})
    own = sum(process.memory_bytes or 0 for process in processes if process.pid in holders)
    assert found is not None
    assert 0 <= found <= used - (own if all(p.memory_bytes is not None for p in processes) else 0)


def test_parents_are_read_from_proc() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = parents([child.pid])
    assert known[child.pid] == os.getpid()
    assert known[os.getpid()] == os.getppid()
    child.communicate(b"\n")
    assert parents([child.pid]) == {}
