"""Child processes that cannot outlive the process that started them, not even its SIGKILL.

A child is started through a small Python shim that asks the kernel for a signal at its parent's
death (``PR_SET_PDEATHSIG``) and then becomes the command by exec, so its pid is the command's own.
A ``preexec_fn`` would do it without the shim, but runs Python between fork and exec, which can hang
when the parent has threads. The signal is bound to the *thread* that started the child: hence one
that is not the main thread hands the start over to a thread that lives as long as the process.
Elsewhere than on Linux a child is only ended by those who hold it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

# The parent may have died before the kernel was asked: then nobody would ever send the signal.
_SHIM = """
import ctypes, os, sys
parent, number = int(sys.argv[1]), int(sys.argv[2])
if ctypes.CDLL(None, use_errno=True).prctl(1, number, 0, 0, 0) != 0:
    raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
if os.getppid() != parent:
    sys.exit(1)
os.execvp(sys.argv[3], sys.argv[3:])
"""

_SECOND_ASKING_SECONDS = 3.0

_launcher: tuple[int, ThreadPoolExecutor] | None = None
_launcher_lock = threading.Lock()


def spawn(
    command: Sequence[str],
    output: IO[bytes],
    *,
    on_parent_death: signal.Signals | None = signal.SIGKILL,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start ``command`` with stdout and stderr in ``output``, in a session of its own.

    The session keeps a Ctrl-C at the terminal away from it: its starter ends it, in an order that suits.
    ``on_parent_death`` is the signal it gets when this process is gone; ``None`` lets it live on.

    Raises:
        OSError: the command cannot be executed at all.
    """
    argv = list(command)
    if on_parent_death is not None and sys.platform == "linux":
        argv = [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), str(int(on_parent_death)), *argv]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            cwd=folder,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )

    if threading.current_thread() is threading.main_thread():
        return start()
    return _long_lived_thread().submit(start).result()


def _long_lived_thread() -> ThreadPoolExecutor:
    """One thread that ends with the process; a forked child has lost its parent's and gets its own."""
    global _launcher
    with _launcher_lock:
        if _launcher is None or _launcher[0] != os.getpid():
            _launcher = (os.getpid(), ThreadPoolExecutor(1, thread_name_prefix="gpubroker-launcher"))
        return _launcher[1]


def end_all(processes: Sequence[subprocess.Popen[bytes]], patience: float) -> None:
    """SIGTERM to all at once; again after ``patience`` seconds (RQ then gives its job up); SIGKILL to the rest."""
    running = list(processes)
    for seconds in (patience, _SECOND_ASKING_SECONDS):
        for process in running:
            process.terminate()
        deadline = time.monotonic() + seconds
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        running = [process for process in running if process.poll() is None]
    for process in running:
        os.killpg(process.pid, signal.SIGKILL)  # it leads its session: what it started goes with it
        process.wait()
