"""`gpubroker up`: a whole stack on one machine, and nothing left of it after its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from broker import Broker
from broker.units import GIB

Start = Callable[..., "Up"]


class Up:
    """A running `gpubroker up`, and what it printed until it was ready."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.lines: list[str] = []
        for line in process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith("Ctrl-C"):
                break

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(self.lines)

    @property
    def url(self) -> str:
        """The server it names."""
        found = re.search(r"redis://127\.0\.0\.1:\d+/0", self.text)
        assert found, self.text
        return found[0]


@pytest.fixture
def start(command: list[str], tmp_path: Path) -> Iterator[Start]:
    """Starts ``gpubroker up`` with these words on a folder of the test's."""
    running: list[subprocess.Popen[str]] = []

    def run(*words: str) -> Up:
        process = subprocess.Popen(
            [*command, "up", "--dir", str(tmp_path / "up"), "--port", "0", "--http-port", "0", *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        running.append(process)
        return Up(process)

    yield run
    for process in running:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_simulated_card_is_seen_and_a_signal_ends_everything(
    start: Start, number: int, descendants: Callable[[int], set[int]], gone: Callable[[int], bool]
) -> None:
    up = start("--simulate", "1x6GiB", "--workers", "0")
    with Broker.from_url(up.url) as broker:
        (gpu,) = broker.gpus()
    assert gpu.memory_total_bytes == 6 * GIB
    page = re.search(r"^page     (http://127\.0\.0\.1:\d+/)$", up.text, re.MULTILINE)
    assert page, up.text
    assert httpx.get(f"{page[1]}api/gpu/status", trust_env=False).json()["gpus"] == 1
    assert f"export GPUBROKER_REDIS_URL={up.url}" in up.text
    assert f"HGETALL 'gpubroker:{{default}}:gpu:{gpu.uuid}'" in up.text
    pids = descendants(up.process.pid)
    assert len(pids) >= 3  # the server, the agent and the page
    up.process.send_signal(number)
    up.process.communicate(timeout=30)
    assert up.process.returncode == 0
    assert all(gone(pid) for pid in pids)


def test_workers_are_started_on_the_queues_that_were_named(
    start: Start, until: Callable[[Callable[[], bool]], None]
) -> None:
    from rq import Worker

    up = start("--simulate", "1x6GiB", "--workers", "2", "--queue", "photos")
    with Broker.from_url(up.url) as broker:
        until(lambda: [worker.queue_names() for worker in Worker.all(connection=broker.redis)] == [["photos"]] * 2)


def test_a_second_one_on_the_same_folder_is_refused_with_one_line(
    start: Start, command: list[str], tmp_path: Path
) -> None:
    start("--simulate", "1x6GiB", "--workers", "0")
    second = subprocess.run(
        [*command, "up", "--dir", str(tmp_path / "up"), "--port", "0"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert re.fullmatch(r"gpubroker: \S+ is in use by another gpubroker \(pid \d+, redis://\S+\): .*\n", second.stderr)


def test_an_agent_that_dies_is_reported_and_started_again(
    start: Start, until: Callable[[Callable[[], bool]], None], descendants: Callable[[int], set[int]]
) -> None:
    up = start("--simulate", "1x6GiB", "--workers", "0")

    def agents() -> list[int]:
        children = descendants(up.process.pid)
        return [pid for pid in children if b"\0agent\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    (agent,) = agents()
    os.kill(agent, signal.SIGKILL)
    assert up.process.stdout is not None
    assert up.process.stdout.readline().startswith("agent killed by SIGKILL, starts again in 0.5 s")
    until(lambda: [pid for pid in agents() if pid != agent] != [])


def test_a_killed_stack_leaves_nothing_running(
    start: Start, descendants: Callable[[int], set[int]], gone: Callable[[int], bool]
) -> None:
    up = start("--simulate", "1x6GiB", "--workers", "1")
    pids = descendants(up.process.pid)
    up.process.kill()
    up.process.wait()
    assert pids
    assert all(gone(pid) for pid in pids)


def test_a_bad_spec_ends_it_with_the_agents_own_words(start: Start) -> None:
    up = start("--simulate", "nonsense", "--workers", "0")
    up.process.wait(timeout=60)
    assert up.process.returncode == 1
    assert "nonsense" in up.text


def test_a_bad_pool_name_is_refused_before_anything_starts(start: Start, tmp_path: Path) -> None:
    up = start("--pool", "a{b}")
    up.process.wait(timeout=60)
    assert up.process.returncode == 2
    assert up.text.startswith("gpubroker: pool='a{b}'")
    assert not (tmp_path / "up").exists()
