"""Run RQ's own tests twice, with its workers and with ours: what passes with its own must pass with ours.

``python -m tests.upstream [PYTEST ARGUMENTS]``. Fetches the source archive of the RQ that is installed from the package
index. RQ's tests want a server at 127.0.0.1:6379, so nothing else may listen there: an embedded one does, while they
run. Exit code 1 if a test fails with our workers only, unless it is named in ``DIFFERENT`` with the reason.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from broker.embedded import EmbeddedServer

PORT = 6379
_LEAVE_SECONDS = 30
ROOT = Path(__file__).parents[2]

#: What RQ's tests see otherwise, and why it is so on purpose.
DIFFERENT = {
    "test_intermediate_queue.TestIntermediateQueue.test_no_cleanup_while_in_started_queue":
        "looks at a job between RQ's two steps from the intermediate list to started; here it is one step",
    "test_worker.TestWorker.test_worker_configures_socket_timeout":
        "a server that does not answer is noticed after 15 seconds, not after 415",
    "test_worker.TestWorker.test_worker_ttl_param_resolves_timeout":
        "a server that does not answer is noticed after 15 seconds, not after 415",
    "test_spawn_worker.TestWorker.test_horse_rebuilds_ssl_connection":
        "patches the worker's class, and expects to find it in the horse: a plain job's horse is of RQ's own class",
    "test_spawn_worker.TestWorker.test_horse_rebuilds_unix_socket_connection":
        "patches the worker's class, and expects to find it in the horse: a plain job's horse is of RQ's own class",
}  # fmt: skip


def fetched(folder: Path) -> Path:
    """RQ's source tree, of the version that is installed."""
    wanted = f"rq=={version('rq')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    fetch = [*pip, "--no-deps", "--no-binary", "rq", "--dest", str(folder), wanted]
    if subprocess.run(fetch, stdout=subprocess.DEVNULL, check=False).returncode:
        raise click.ClickException(f"the source of {wanted} cannot be had from the package index")
    archive = next(folder.glob("rq-*.tar.gz"))
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def outcomes(tests: Path, arguments: list[str]) -> dict[str, str]:
    """Every test, and how it ended: passed, failed or skipped."""
    report = tests.parent / "report.xml"
    with EmbeddedServer(port=PORT) as server:
        paths = {"PYTHONPATH": [tests.parent, ROOT], "PATH": [Path(sys.executable).parent, os.environ["PATH"]]}
        env = {**os.environ, **{name: os.pathsep.join(map(str, parts)) for name, parts in paths.items()}}
        env["GPUBROKER_REDIS_URL"] = server.url
        run = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short", "-W", "ignore",
             f"--junitxml={report}", "--override-ini=junit_family=xunit1", "tests", *arguments],
            cwd=tests.parent, env=env, start_new_session=True,
        )  # fmt: skip
        while run.poll() is None and not report.exists():
            time.sleep(0.5)
        # A test that fails half way leaves a pool's workers, and the process would wait for them for ever.
        with suppress(subprocess.TimeoutExpired):
            run.wait(_LEAVE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname', '').removeprefix('tests.')}.{case.get('name')}"
        ends = {child.tag for child in case} & {"failure", "error", "skipped"}
        found[name] = "passed" if not ends else "skipped" if ends == {"skipped"} else "failed"
    return found


def main(arguments: list[str]) -> int:
    """Both runs, and what differs. The exit code."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            raise click.ClickException(f"something listens at port {PORT}; RQ's tests would write into it")
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        source = fetched(Path(folder))
        for name in ("theirs", "ours"):
            tests = Path(folder) / name / "tests"
            shutil.copytree(source / "tests", tests)
            if name == "ours":
                shutil.copy(Path(__file__).with_name("places.py"), tests.parent / "conftest.py")
            runs[name] = outcomes(tests, arguments)
    return told(runs["theirs"], runs["ours"])


def told(theirs: dict[str, str], ours: dict[str, str]) -> int:
    """Print what differs; 1 if something does that should not."""
    table = Table(title=f"RQ {version('rq')}, its own tests", title_justify="left")
    for column in ("test", "its workers", "ours", ""):
        table.add_column(column, overflow="fold")
    unlike = {name for name in theirs if theirs[name] != ours.get(name)}
    wrong = {name for name in unlike if theirs[name] == "passed" and name not in DIFFERENT}
    for name in sorted(unlike):
        table.add_row(name, theirs[name], ours.get(name, "did not run"), DIFFERENT.get(name, ""))
    console = Console()
    console.print(table)
    for name, run in (("its workers", theirs), ("ours", ours)):
        ended = list(run.values())
        console.print(f"{name}: {', '.join(f'{ended.count(how)} {how}' for how in ('passed', 'failed', 'skipped'))}")
    console.print(
        f"{len(wrong)} fail with ours only, without a reason" if wrong else "nothing differs without a reason"
    )
    return 1 if wrong or not theirs else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except click.ClickException as error:
        error.show()
        sys.exit(2)
