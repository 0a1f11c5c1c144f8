"""The tutorial, "a studio with three machines": every command of it in its order, as processes, on simulated cards."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import pytest
from redis import Redis
from rq import Worker

from broker import Broker
from broker.models import Event
from tests.docs.pages import Block, blocks
from tests.docs.terminals import Terminals, terminals

pytestmark = pytest.mark.timeout(400)  # all of its processes, on a busy machine
PAGE = "tutorial.md"
#: Terminals in which a program stays; the others are "you", and the line that every terminal wants.
STAYS = (
    "desk",
    "tower, agent",
    "lab, agent",
    "tower, worker",
    "tower, second worker",
    "tower, third worker",
    "lab, worker",
)
#: What each command of "you" says, as a pattern, and its status; in the order of the page.
SAYS = [
    ("gpubroker config set monitor_interval=1 throttle_cooldown_seconds=3", 0, "monitor_interval=1"),
    ("gpubroker status", 0, "desk.*lab.*tower.*tower"),
    ("gpubroker acquire 4GiB --lease-id mine --host tower --ttl 600", 0, r"mine.*token\D+\d+"),
    ("gpubroker leases", 0, "mine.*tower"),
    ("gpubroker acquire 4GiB --lease-id mine --host tower --ttl 600", 0, "mine"),
    ("gpubroker acquire 6GiB", 1, "6.0 GiB"),
    ("gpubroker release mine TOKEN", 0, "released"),
    ("python send.py", 0, r"(roll \d+: 8 photos on (desk|lab|tower)\n){10}"),
    ("gpubroker events", 0, "queued.*released"),
    ("python -c \"from studio import enhance; enhance.delay('wedding', 400)\"", 0, ""),
    ("gpubroker leases --json", 0, r'"pid": \d+'),
    ("kill -9 PID", 0, ""),
    ("gpubroker events", 0, "released"),
    ("gpubroker drain --host tower", 0, "drained tower"),
    ("gpubroker explain 4GiB --host tower", 0, "drained"),
    ("gpubroker undrain --host tower", 0, "undrained tower"),
    ("gpubroker explain 4GiB --host tower", 0, ""),
    ("GPUBROKER_HOST=lab gpubroker run --memory 4GiB -- sleep 8", 0, ""),
    ("gpubroker events", 0, "warning.*THROTTLED"),
    ("gpubroker trend UUID", 0, "°C"),
    ("gpubroker doctor", 0, "fine.*every sum and index"),
]


class Reader:
    """Somebody who does what the page says, and looks up what it leaves open: a token, a pid, a card."""

    def __init__(self, seats: Terminals) -> None:
        self.seats = seats
        self.said: list[tuple[str, int, str]] = []
        self.killed = ""

    @cached_property
    def broker(self) -> Broker:
        return Broker.from_url(self.seats.environment["GPUBROKER_REDIS_URL"])

    def do(self, block: Block) -> None:
        """One block of the page."""
        if block.language == "python":
            (self.seats.folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.title == "every other terminal":
            self._export(block.commands)
        elif block.title in STAYS:
            (line,) = block.commands
            self._start(block.title, line)
        else:
            assert block.title == "you", block
            for line in block.commands:
                self._run(line)

    def _start(self, title: str, line: str) -> None:
        if title == "desk":
            line += f" --port 0 --dir {self.seats.folder / 'data'}"
        self.seats.start(title, line)
        if title == "desk":
            until(lambda: "Ctrl-C ends" in self.seats.said("desk"), "the ledger")
        elif title.endswith("agent"):
            host = title.partition(",")[0]
            until(lambda: any(gpu.host == host and gpu.lends for gpu in self.broker.gpus()), title)
        else:
            wanted = sum("worker" in one for one in self.seats.running) + 1  # and desk's own
            until(lambda: len(Worker.all(connection=self.redis())) == wanted, title)

    def _export(self, commands: list[str]) -> None:
        """The line of the page is the one that ``up`` printed, but for the port."""
        (line,) = commands
        printed = re.search(r"export .*", self.seats.said("desk"))
        assert printed is not None
        assert re.sub(r":\d+/", ":6390/", printed[0]) == line
        self.seats.environment |= dict(pair.split("=", 1) for pair in printed[0].split()[1:])

    def _run(self, line: str) -> None:
        filled = line
        if "TOKEN" in line:
            filled = filled.replace("TOKEN", str(self.broker.leases()[0].token))
        if line.endswith("UUID"):
            filled = filled.replace("UUID", next(gpu.uuid for gpu in self.broker.gpus() if gpu.host == "lab"))
        if line == "gpubroker leases --json":  # a person looks again until the job has begun
            until(lambda: any(lease.pid for lease in self.broker.leases()), "the job's process")
        if "PID" in line:
            self.killed, pid = self._looked_up()
            filled = filled.replace("PID", str(pid))
        after = self.broker.last_event_id()
        status, text = self.seats.run(filled)
        self.said.append((line, status, text))
        if line.startswith("kill"):
            events = self.broker.follow(after, block_ms=1000)
            until(lambda: _is_release(next(events), self.killed), "the killed job's release")

    def _looked_up(self) -> tuple[str, int]:
        """Lease and process of the job that runs, as the last command printed them."""
        printed = json.loads(self.said[-1][2])
        leases = printed["leases"] if isinstance(printed, dict) else printed
        return next((lease["id"], lease["pid"]) for lease in leases if lease["pid"])

    def redis(self) -> Redis:
        """RQ's connection."""
        return Redis.from_url(self.seats.environment["GPUBROKER_REDIS_URL"])


def _is_release(event: Event | None, lease_id: str) -> bool:
    return event is not None and event.kind == "released" and event.fields["id"] == lease_id


def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Returns once a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader at the end of the page."""
    folder: Path = tmp_path_factory.mktemp("studio")
    with terminals(folder) as seats:
        somebody = Reader(seats)
        for block in blocks(PAGE):
            somebody.do(block)
        yield somebody


def test_every_command_says_what_the_page_says(reader: Reader) -> None:
    assert [line for line, _, _ in reader.said] == [line for line, _, _ in SAYS]
    for (line, status, text), (_, expected, pattern) in zip(reader.said, SAYS, strict=True):
        assert status == expected, f"{line}\n{text}"
        assert re.search(pattern, text, re.DOTALL), f"{line}\n{text}"


def test_the_killed_job_ran_again_and_to_its_end(reader: Reader) -> None:
    from rq import Queue

    queue = Queue("photos", connection=reader.redis())
    until(lambda: queue.finished_job_registry.get_job_count() == 11, "the end of all jobs", seconds=120)
    finished = [queue.fetch_job(name) for name in queue.finished_job_registry.get_job_ids()]
    told = [job.return_value() for job in finished if job is not None]
    assert sum(str(one).startswith("wedding: 400 photos on ") for one in told) == 1
    assert queue.failed_job_registry.get_job_ids() == []


def test_ctrl_c_ends_every_terminal_and_leaves_no_lease(reader: Reader) -> None:
    broker = reader.broker
    for title in reversed(STAYS[1:]):
        assert reader.seats.end(title) == 0, reader.seats.said(title)
    assert broker.leases() == []
    assert {gpu.host for gpu in broker.gpus()} == {"desk"}
    assert reader.seats.end("desk") == 0
