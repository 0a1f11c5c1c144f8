"""The quick start, from `up` on: its commands in their order, with a job that runs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import Broker
from tests.docs.pages import blocks
from tests.docs.terminals import Terminals, terminals

SHELL = [line for block in blocks("quick-start.md", "sh") for line in block.commands]
#: What each of them says, after those that install and the one that stays.
SAYS = {
    "python -c \"from my_jobs import enhance; print(enhance.delay('a.jpg').id)\"": r"^[0-9a-f-]{36}\n",
    "gpubroker status": "OPTIMAL|NORMAL",
    "gpubroker events": "granted.*released",
    "gpubroker acquire 4GiB --ttl 600": "GPU-",
    "gpubroker leases": "4.0 GiB",
    "gpubroker release ID TOKEN": "released",
}


@pytest.fixture
def seats(tmp_path: Path) -> Iterator[Terminals]:
    """A shell in which the stack of the page runs, and another that knows of it."""
    (up,) = [line for line in SHELL if line.startswith("gpubroker up")]
    (job,) = blocks("quick-start.md", "python")
    with terminals(tmp_path) as opened:
        (tmp_path / job.title).write_text(job.text, encoding="utf-8")
        opened.start("up", f"{up} --port 0 --dir {tmp_path / 'data'}")
        deadline = time.monotonic() + 60
        while "Ctrl-C ends" not in opened.said("up"):
            assert time.monotonic() < deadline, opened.said("up")
            time.sleep(0.05)
        printed = re.search(r"export (.*)", opened.said("up"))
        assert printed is not None
        opened.environment |= dict(pair.split("=", 1) for pair in printed[1].split())
        yield opened


def test_its_commands_do_what_it_says(seats: Terminals) -> None:
    first = next(at for at, line in enumerate(SHELL) if line.startswith("gpubroker up"))
    assert SHELL[first + 1 :] == list(SAYS)
    with Broker.from_url(seats.environment["GPUBROKER_REDIS_URL"]) as broker:
        for line, pattern in SAYS.items():
            if line == "gpubroker events":  # a person looks when the job is over
                next(event for event in broker.follow("0") if event is not None and event.kind == "released")
            lease = next(iter(broker.leases()), None)
            held = (lease.id, str(lease.token)) if lease is not None else ("", "")
            status, text = seats.run(line.replace("ID TOKEN", " ".join(held)))
            assert status == 0, f"{line}\n{text}"
            assert re.search(pattern, text, re.DOTALL), f"{line}\n{text}"
        assert broker.leases() == []
    assert seats.end("up") == 0
