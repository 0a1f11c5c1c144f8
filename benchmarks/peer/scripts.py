"""A script of ours that is killed while it holds: under ``gpubroker run``, and in a function with ``@gpu_job``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from benchmarks.peer import driver, ours
from benchmarks.peer.far import ROOT, FarError
from benchmarks.peer.found import Back

#: What is started: with its URL, key and tag it says who it is, and stays.
SCRIPTS = {
    "gpubroker run -- CMD": (
        [sys.executable, "-m", "broker.cli", "run", "--memory", str(ours.ALL), "--", sys.executable, "-c"],
        "import sys; from benchmarks.peer.job import hold; hold(*sys.argv[1:])",
    ),
    "@gpu_job called in a script": (
        [sys.executable, "-c"],
        "import sys; from benchmarks.peer.decorated import hold; hold(*sys.argv[1:])",
    ),
}


def recovery(name: str, url: str, redis: Any, waiter: Any, cap: float) -> Back:
    """From SIGKILL of what holds until one who waits for the same card has it; as ``driver.recovery``.

    Raises:
        FarError: it never held.
    """
    key = waits_in(name)
    ours.stock(url, key, [key])
    command, code = SCRIPTS[name]
    env = {"GPUBROKER_REDIS_URL": url, "GPUBROKER_POOL": key, "GPUBROKER_HOST": ours.HOST, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, code, url, key, "x"], env={**os.environ, **env}, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        said = driver.Stage(redis, key).hears(60)
        if said is None:
            raise FarError(f"{name} did not begin")
        waiter.tell("acquire", key, cap + 5)
        time.sleep(1)
        killed = time.perf_counter()
        os.kill(said["pid"], signal.SIGKILL)
        return driver.answered(waiter, killed, cap)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def waits_in(name: str) -> str:
    """The pool in which a script holds, for its waiter."""
    return f"script-{list(SCRIPTS).index(name)}"
