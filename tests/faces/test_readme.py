"""Every command and every piece of code in the README does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import Broker, this_host
from broker.embedded import EmbeddedServer
from broker.stack import Stack

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]

#: Each command of the README, and the test that runs it.
RUN_BY = {
    "make demo": "tests/faces/test_demo.py",
    "make test": "the test run itself",
    "gpubroker up --simulate 2x6GiB --queue photos": "test_the_job_of_the_readme_runs_on_the_stack_that_up_starts",
    "python -c \"from my_jobs import enhance; enhance.delay(['a.jpg', 'b.jpg'])\"": "the same",
    "gpubroker status": "the same",
    "gpubroker leases --json": "the same",
    "gpubroker demo --photos DIR --out DIR": "tests/faces/test_demo.py",
}


def test_every_command_is_run_by_a_test() -> None:
    assert [line for line in SHELL if line] == list(RUN_BY)


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_make_knows_the_targets_of_the_readme() -> None:
    for target in ("demo", "test", "bench"):
        subprocess.run(["make", "--dry-run", "--silent", target], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture
def my_jobs(tmp_path: Path) -> Path:
    (tmp_path / "my_jobs.py").write_text(PYTHON[0], encoding="utf-8")
    return tmp_path


@pytest.fixture
def up(my_jobs: Path, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = SHELL[2].split()
    assert command[:2] == ["gpubroker", "up"]
    process = subprocess.Popen(
        [sys.executable, "-m", "broker.cli", *command[1:], "--port", "0", "--dir", str(tmp_path / "data")],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(my_jobs), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    url = ""
    for line in process.stdout:
        if found := re.search(r"GPUBROKER_REDIS_URL=(\S+)", line):
            url = found[1]
        if "Ctrl-C ends" in line:
            break
    yield url, process
    process.terminate()
    assert process.wait(timeout=30) == 0


def test_the_job_of_the_readme_runs_on_the_stack_that_up_starts(
    up: tuple[str, subprocess.Popen[str]], my_jobs: Path
) -> None:
    url, _ = up
    environment = {**os.environ, "GPUBROKER_REDIS_URL": url, "RQ_REDIS_URL": url, "PYTHONPATH": str(my_jobs)}
    delay = re.search(r'python -c "(.*)"', README)
    assert delay is not None
    subprocess.run([sys.executable, "-c", delay[1]], env=environment, check=True)
    with Broker.from_url(url) as broker:
        kinds = []
        for event in broker.follow("0"):
            assert event is not None or len(kinds) < 100
            if event is not None:
                kinds.append(event.kind)
                if event.kind == "released":
                    break
        assert "granted" in kinds
    for arguments in (["status"], ["leases", "--json"]):
        shown = subprocess.run(
            [sys.executable, "-m", "broker.cli", *arguments],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        assert shown.stdout


def test_the_with_block_of_the_readme_borrows(tmp_path: Path) -> None:
    with Stack(tmp_path, persist=False) as stack:
        stack.agent("agent", host=this_host(), simulate="1x6GiB")
        stack.wait_ready(lambda broker: any(gpu.lends for gpu in broker.gpus()), 30)
        code = PYTHON[1].replace("redis://127.0.0.1:6390/0", stack.url)
        assert code != PYTHON[1]
        shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert "GPU-" in shown.stdout
        assert stack.broker.leases() == []


def test_the_job_that_finds_its_size_is_sent_off_with_its_photos_size(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "my_sizes.py").write_text(PYTHON[2], encoding="utf-8")
    code = "from my_sizes import sharpen; print(sharpen.delay('a.jpg', 24).meta['gpu'])"
    environment = {**os.environ, "GPUBROKER_REDIS_URL": redis_url, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert "'memory': 'auto', 'default_bytes': 4294967296, 'size': 24.0" in shown


def test_the_server_of_the_tests_is_a_real_one() -> None:
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker:
        assert broker.redis.info("server")["process_id"] == server.pid  # type: ignore[index]
