"""An embedded server with agents and workers around it: the whole of gpubroker on one machine, in one hand."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from broker import lifeline
from broker.embedded import EmbeddedServer
from broker.errors import BrokerError

if TYPE_CHECKING:
    from broker.client import Broker

_RESTART_SECONDS = (0.5, 30.0)  # first pause before a restart, and the longest
_STEADY_SECONDS = 10.0  # a child that lived this long starts again from the first pause
_EVENT_BLOCK_MS = 200
_SERVE_SECONDS = 30.0
#: What `gpubroker serve` says when it listens.
_PAGE = re.compile(rb"^page     (https?://\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ended:
    """A child that ended without being asked to. ``restart_in`` is in seconds; ``None``: it stays down."""

    name: str
    status: int
    log: Path
    restart_in: float | None

    def __str__(self) -> str:
        """One line for a person."""
        how = (
            f"killed by {signal.Signals(-self.status).name}" if self.status < 0 else f"ended with status {self.status}"
        )
        then = "" if self.restart_in is None else f", starts again in {self.restart_in:g} s"
        return f"{self.name} {how}{then}; see {self.log}{self._last_words()}"

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        words = "".join(filter(str.isprintable, next((line for line in reversed(lines) if line.strip()), "")))
        return f": {words}" if words else ""


@dataclass(slots=True)
class Child:
    """One child process, under the name by which its starter knows it. ``command`` is told how often it ran before."""

    name: str
    command: Callable[[int], Sequence[str]]
    environment: dict[str, str]
    log: Path
    restart: bool
    stage: int
    process: subprocess.Popen[bytes] | None = None
    restart_at: float = 0.0
    failures: int = 0
    starts: int = 0
    started: float = field(default=0.0, repr=False)

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            BrokerError: it does not run now.
        """
        if self.process is None:
            raise BrokerError(f"{self.name} is not running")
        return self.process.pid


class Stack:
    """A server, then agents, then workers; ended in the opposite order.

    Every child runs in a session of its own and dies with this process, however that ends. ``folder``
    keeps the server's data (if ``persist``) and a log for each child, ``logs/NAME.log``. ``keep`` leaves
    all of it running when the ``with`` block or this process ends.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        port: int = 0,
        pool: str = "default",
        persist: bool = True,
        restart: bool = False,
        keep: bool = False,
    ) -> None:
        """Remember what to start. ``restart`` starts a child again that ends by itself, after a growing pause."""
        self.folder = Path(folder).absolute()
        self.pool = pool
        self.server = EmbeddedServer(self.folder, port, persist=persist, keep=keep)
        self.children: dict[str, Child] = {}
        self._restart = restart
        #: Whether it goes on when its block or its process ends.
        self.keeps = keep
        #: Where the page is, once it is served.
        self.page = ""
        self._broker: Broker | None = None

    @property
    def url(self) -> str:
        """Where the ledger is."""
        return self.server.url

    @property
    def broker(self) -> Broker:
        """A broker on the stack's server, made at the first call."""
        if self._broker is None:
            from broker.client import Broker

            self._broker = Broker.from_url(self.url, pool=self.pool)
        return self._broker

    def start(self) -> Self:
        """Start the server; children come by ``agent``, ``worker`` and ``add``.

        Raises:
            BrokerError: no server program, or the folder or port is in use.
        """
        self.server.start()
        (self.folder / "logs").mkdir(exist_ok=True)
        return self

    def agent(self, name: str, *, host: str | None = None, simulate: str | None = None) -> Child:
        """Start an agent: this machine's real cards, or the simulated ones of ``simulate`` such as ``2x6GiB``."""
        arguments = ["agent", *_option("--simulate", simulate)]
        return self.add(name, _verb(arguments), stage=1, environment=_host(host))

    def worker(
        self, name: str, queues: Iterable[str], *, host: str | None = None, options: Sequence[str] = ()
    ) -> Child:
        """Start a GPU worker on ``queues``; with ``host`` it borrows only on that host's cards."""
        named = [word for queue in queues for word in ("--queue", queue)]

        def command(starts: int) -> list[str]:
            # RQ refuses a name whose last bearer was killed, until that one's record has run out.
            own = name if not starts else f"{name}.{starts + 1}"
            return _verb(["worker", *named, "--name", own, *_option("--host", host), *options])

        return self._add(name, command, 2, _host(host))

    def serve(self, port: int = 0) -> str:
        """Start the HTTP face on this machine alone; returns the page's address.

        Raises:
            BrokerError: it ended, or did not listen within 30 seconds.
        """
        log = self.folder / "logs" / "serve.log"
        before = log.stat().st_size if log.exists() else 0

        def command(starts: int) -> list[str]:
            # Where it was served once, it is served again.
            own = self.page.rstrip("/").rpartition(":")[2] or str(port)
            return _verb(["serve", "--port", own])

        child = self._add("serve", command, 1, {})
        deadline = time.monotonic() + _SERVE_SECONDS
        while not (found := _PAGE.search(log.read_bytes()[before:])):
            for ended in self.check(0.05):
                raise BrokerError(f"the page cannot be served: {ended}")
            if time.monotonic() > deadline:
                raise BrokerError(f"the page was not served within {_SERVE_SECONDS:g} s; see {child.log}")
        self.page = found[1].decode("ascii")
        return self.page

    def add(
        self, name: str, command: Sequence[str], *, stage: int = 2, environment: Mapping[str, str] | None = None
    ) -> Child:
        """Start ``command`` at once, knowing the ledger by its environment; a higher ``stage`` is ended earlier.

        Raises:
            BrokerError: the name is taken.
        """
        words = tuple(command)
        return self._add(name, lambda starts: words, stage, environment or {})

    def _add(
        self, name: str, command: Callable[[int], Sequence[str]], stage: int, environment: Mapping[str, str]
    ) -> Child:
        if name in self.children:
            raise BrokerError(f"the stack has a child named {name} already")
        ledger = {"GPUBROKER_REDIS_URL": self.url, "GPUBROKER_POOL": self.pool, "PYTHONUNBUFFERED": "1"}
        log = self.folder / "logs" / f"{name}.log"
        child = Child(name, command, {**ledger, **environment}, log, self._restart, stage)
        self._launch(child)
        self.children[name] = child
        return child

    def wait_ready(self, ready: Callable[[Broker], bool], seconds: float, what: str = "the stack") -> None:
        """Return once ``ready(broker)`` holds; asked again at each event of the journal.

        Raises:
            BrokerError: a child ended meanwhile, or ``seconds`` were over.
        """
        deadline = time.monotonic() + seconds
        # What leaves no event behind, a worker's registration in RQ, is seen when a block is over.
        events = self.broker.follow(self.broker.last_event_id(), block_ms=_EVENT_BLOCK_MS)
        while not ready(self.broker):
            for ended in self.check():
                raise BrokerError(f"{what} did not become ready: {ended}")
            if time.monotonic() > deadline:
                raise BrokerError(f"{what} was not ready within {seconds:g} s; see {self.folder / 'logs'}")
            next(events)

    def check(self, seconds: float = 0.0) -> list[Ended]:
        """Children that ended by themselves since the last call, waiting up to ``seconds`` for the first of them.

        Also starts those again whose pause is over.

        Raises:
            BrokerError: the server itself is gone.
        """
        deadline = time.monotonic() + seconds
        while True:
            if not self.server.running:
                raise BrokerError(f"the embedded server ended; see {self.folder / 'server.log'}")
            self._start_due()
            ended = [
                self._bury(child)
                for child in self.children.values()
                if child.process and child.process.poll() is not None
            ]
            remaining = deadline - time.monotonic()
            if ended or remaining <= 0:
                return ended
            due = [child.restart_at - time.monotonic() for child in self.children.values() if child.restart_at]
            _wait_for_an_end(self._pids(), max(0.0, min([remaining, *due])))

    def end(self, name: str, patience: float = 10.0) -> int | None:
        """End one child for good; returns its exit status, ``None`` if it was down already."""
        child = self.children.pop(name)
        if child.process is None:
            return None
        lifeline.end_all([child.process], patience)
        return child.process.returncode

    def stop(self, patience: float = 10.0) -> None:
        """End everything: workers (each finishes its job if it can within ``patience`` seconds), agents, the server."""
        if os.getpid() != self.server.owner_pid:
            return
        for stage in sorted({child.stage for child in self.children.values()}, reverse=True):
            lifeline.end_all([c.process for c in self.children.values() if c.stage == stage and c.process], patience)
        self.children.clear()
        if self._broker is not None:
            self._broker.close()
            self._broker = None
        self.server.stop()

    def __enter__(self) -> Self:
        """Start the server."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop everything, unless it was asked to stay and nothing went wrong."""
        if not self.keeps or error is not None:
            self.stop()

    def _launch(self, child: Child) -> None:
        with child.log.open("ab") as log:
            child.process = lifeline.spawn(
                child.command(child.starts),
                log,
                on_parent_death=None if self.keeps else signal.SIGKILL,
                environment={**os.environ, **child.environment},
            )
        child.starts += 1
        child.started = time.monotonic()
        child.restart_at = 0.0

    def _bury(self, child: Child) -> Ended:
        assert child.process is not None
        status = child.process.wait()
        child.process = None
        pause = None
        if child.restart:
            child.failures = 0 if time.monotonic() - child.started > _STEADY_SECONDS else child.failures
            pause = min(_RESTART_SECONDS[0] * 2.0**child.failures, _RESTART_SECONDS[1])
            child.failures = min(child.failures + 1, 16)
            child.restart_at = time.monotonic() + pause
        return Ended(child.name, status, child.log, pause)

    def _start_due(self) -> None:
        for child in self.children.values():
            if child.process is None and child.restart_at and child.restart_at <= time.monotonic():
                self._launch(child)

    def _pids(self) -> list[int]:
        return [self.server.pid, *(child.process.pid for child in self.children.values() if child.process)]


def _verb(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "broker.cli", *arguments]


def _option(name: str, value: str | None) -> list[str]:
    return [] if value is None else [name, value]


def _host(host: str | None) -> dict[str, str]:
    return {} if host is None else {"GPUBROKER_HOST": host}


def _wait_for_an_end(pids: Sequence[int], seconds: float) -> None:
    """Return when one of our children ends, or after ``seconds``."""
    if not hasattr(os, "pidfd_open"):
        time.sleep(min(seconds, 0.1))
        return
    handles = [os.pidfd_open(pid) for pid in pids]
    try:
        poller = select.poll()
        for handle in handles:
            poller.register(handle, select.POLLIN)
        poller.poll(seconds * 1000)
    finally:
        for handle in handles:
            os.close(handle)
