"""The examples for other queues, with their own workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import Broker
from broker.models import Event

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "queues"
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(redis_url: str, cards: Callable[..., None], tmp_path: Path) -> Iterator[Start]:
    """Starts a program beside the examples, on a machine with a card of 6 GiB."""
    cards("GPU-a", host="here")
    environment = {**os.environ, "GPUBROKER_REDIS_URL": redis_url, "GPUBROKER_HOST": "here"}
    environment["PYTHONPATH"] = os.pathsep.join([str(FOLDER), str(FOLDER.parents[1])])
    started: list[subprocess.Popen[str]] = []

    def program(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, *words]
        process = subprocess.Popen(
            command, env=environment, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield program
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def lent(broker: Broker) -> list[str]:
    """The journal until a lease was released."""
    seen: list[Event] = []
    for event in broker.follow("0", block_ms=500):
        if event is not None:
            seen.append(event)
            if event.kind == "released":
                return [one.kind for one in seen if one.kind in ("granted", "released")]
    raise AssertionError


def test_a_script(start: Start, broker: Broker) -> None:
    out, _ = start(str(FOLDER / "script.py"), "photo.jpg").communicate(timeout=60)
    assert out == "photo.jpg enhanced on GPU-a\n"
    assert lent(broker) == ["granted", "released"]


def test_celery(start: Start, broker: Broker) -> None:
    start("-m", "celery", "-A", "celery_jobs", "worker", "--concurrency", "1", "--loglevel", "error")
    send = "import celery_jobs; print(celery_jobs.enhance.delay('photo.jpg').get(timeout=60))"
    out, _ = start("-c", send).communicate(timeout=90)
    assert out == "photo.jpg enhanced on GPU-a\n"
    assert lent(broker) == ["granted", "released"]


def test_dramatiq(start: Start, broker: Broker, tmp_path: Path) -> None:
    photo = tmp_path / "photo.txt"
    send = f"import dramatiq_jobs; dramatiq_jobs.enhance.send({str(photo)!r})"
    assert start("-c", send).wait(timeout=60) == 0
    start("-m", "dramatiq", "dramatiq_jobs", "--processes", "1", "--threads", "1")
    assert lent(broker) == ["granted", "released"]
    assert photo.read_text() == "enhanced on GPU-a"
