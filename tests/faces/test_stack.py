"""The stack's life: children start, are watched, start again, and end in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import stack as stack_module
from broker.errors import BrokerError
from broker.publish import Publisher
from broker.stack import Stack

Until = Callable[[Callable[[], bool]], None]

# Says in a file when it was told to end.
_DIARY = "import signal, sys; signal.signal(15, lambda *_: sys.exit(print(sys.argv[1], file=open(sys.argv[2], 'a'))))"


def diary(name: str, path: Path) -> list[str]:
    """A child that notes its end in ``path``."""
    return [sys.executable, "-c", f"{_DIARY}; print('up', flush=True); signal.pause()", name, str(path)]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack with nothing but its server."""
    with Stack(tmp_path / "stack", persist=False) as running:
        yield running


def test_workers_end_before_agents_and_agents_before_the_server(stack: Stack, tmp_path: Path, until: Until) -> None:
    ends = tmp_path / "ends"
    children = [stack.add("agent-1", diary("agent", ends), stage=1), stack.add("worker-1", diary("worker", ends))]
    until(lambda: all("up" in child.log.read_text() for child in children))
    stack.stop()
    assert ends.read_text().split() == ["worker", "agent"]
    assert not stack.server.running


def test_a_child_knows_the_ledger_by_its_environment(stack: Stack, until: Until) -> None:
    words = ["sh", "-c", "echo $GPUBROKER_REDIS_URL $GPUBROKER_POOL $GPUBROKER_HOST"]
    child = stack.add("child", words, environment={"GPUBROKER_HOST": "studio-1"})
    until(lambda: child.log.read_text() == f"{stack.url} default studio-1\n")


def test_the_death_of_a_child_is_reported_with_its_signal_and_log(stack: Stack) -> None:
    child = stack.add("worker-1", ["sleep", "600"])
    os.kill(child.pid, signal.SIGKILL)
    (ended,) = stack.check(seconds=30)
    assert str(ended) == f"worker-1 killed by SIGKILL; see {child.log}"
    assert stack.check() == []


def test_the_last_words_of_a_child_are_passed_on(stack: Stack) -> None:
    stack.add("agent-1", ["sh", "-c", "echo no such SPEC; exit 2"])
    assert str(stack.check(seconds=30)[0]).endswith("agent-1.log: no such SPEC")


def test_a_worker_that_was_killed_starts_again_under_a_fresh_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(stack_module, "_verb", lambda words: ["echo", *words])
    with Stack(tmp_path / "stack", persist=False, restart=True) as stack:
        child = stack.worker("worker-1", ["photos"], host="studio-1", options=["--burst"])
        stack.check(seconds=30)
        stack.check(seconds=30)
        assert child.log.read_text().splitlines() == [
            "worker --queue photos --name worker-1 --host studio-1 --burst",
            "worker --queue photos --name worker-1.2 --host studio-1 --burst",
        ]


def test_a_child_that_ends_is_started_again_after_a_growing_pause(tmp_path: Path) -> None:
    with Stack(tmp_path / "stack", persist=False, restart=True) as stack:
        stack.add("worker-1", ["false"])
        pauses = [stack.check(seconds=30)[0].restart_in for _ in range(2)]
    assert pauses == [0.5, 1.0]


def test_the_stack_is_ready_when_the_ledger_says_so(stack: Stack) -> None:
    Publisher(stack.broker, "studio-1").publish([], 1000, host_state="UNAVAILABLE", host_reason="none")
    stack.wait_ready(lambda broker: len(broker.hosts()) == 1, seconds=30)


def test_waiting_for_a_stack_ends_at_the_death_of_a_child(stack: Stack) -> None:
    stack.add("agent-1", [sys.executable, "-c", "raise SystemExit(7)"], stage=1)
    with pytest.raises(BrokerError, match="agent-1 ended with status 7"):
        stack.wait_ready(lambda broker: False, seconds=60)


def test_waiting_for_a_stack_is_bounded(stack: Stack) -> None:
    with pytest.raises(BrokerError, match="not ready within"):
        stack.wait_ready(lambda broker: False, seconds=0.1)


def test_a_lost_server_is_reported_at_once(stack: Stack) -> None:
    os.kill(stack.server.pid, signal.SIGKILL)
    with pytest.raises(BrokerError, match="server ended"):
        stack.check(seconds=30)


def test_a_name_is_given_once(stack: Stack) -> None:
    stack.add("worker-1", ["sleep", "600"])
    with pytest.raises(BrokerError, match="worker-1 already"):
        stack.add("worker-1", ["sleep", "600"])


def test_one_child_can_be_ended_alone(stack: Stack, gone: Callable[[int], bool]) -> None:
    pid = stack.add("worker-1", ["sleep", "600"]).pid
    assert stack.end("worker-1") == -signal.SIGTERM
    assert gone(pid)
    assert stack.check() == []


def test_nothing_of_a_stack_outlives_the_kill_of_its_process(
    tmp_path: Path, gone: Callable[[int], bool], until: Until
) -> None:
    code = """
import signal, sys
from broker.stack import Stack
stack = Stack(sys.argv[1]).start()
child = stack.add("worker-1", ["sleep", "600"])
print(stack.server.pid, child.pid, flush=True)
signal.pause()
"""
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    until(lambda: Path(f"/proc/{pids[1]}/comm").read_text() == "sleep\n")
    parent.kill()
    parent.communicate()
    assert all(gone(pid) for pid in pids)


def test_a_stack_to_keep_goes_on_after_its_block(tmp_path: Path) -> None:
    with Stack(tmp_path, persist=False, keep=True) as stack:
        child = stack.add("worker-1", ["sleep", "600"])
    try:
        assert stack.server.running
        assert child.process is not None
        assert child.process.poll() is None
    finally:
        stack.stop()


def test_a_stack_to_keep_ends_when_its_block_fails(tmp_path: Path, gone: Callable[[int], bool]) -> None:
    stack = Stack(tmp_path, persist=False, keep=True)
    pids = []

    def fail_inside() -> None:
        with stack:
            pids.append(stack.server.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert gone(pids[0])
