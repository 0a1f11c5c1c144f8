"""Follows a server's replication stream as a replica would, and hands every transaction to a checker.

What a replica is sent is all that ever becomes visible, in order: nothing between two transactions escapes. The copy
begins with an empty server. After a restart the server sends another history and whatever it kept: then a new follower
starts with ``load=True``, which reads the pool through an ordinary client; nothing else may write at that moment.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import hiredis
import redis

from tests.proof.laws import Checker
from tests.proof.mirror import Command

_CHUNK = 1 << 18
_ACK_SECONDS = 1.0
_EOF = b"$EOF:"


class StreamEnded(Exception):
    """The server hung up, or offers another history than the one that was followed."""


class Follower:
    """A thread that follows one server's database 0 and holds one pool against the laws."""

    def __init__(
        self,
        host: str,
        port: int,
        checker: Checker | None = None,
        *,
        diskless: bool = True,
        on_event: Callable[[dict[str, str]], None] | None = None,
    ) -> None:
        """Remember where to connect. ``diskless`` takes the snapshot as ``$EOF:``, otherwise with its length."""
        self.checker = checker or Checker()
        #: Bytes of the stream that were received, counted as the server does.
        self.offset = 0
        #: Why the stream ended, if it did without being stopped.
        self.broken = ""
        self._address = (host, port)
        self._diskless = diskless
        self._on_event = on_event
        self._socket: socket.socket | None = None
        self._rest = b""
        self._reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape")
        self._database = "0"
        self._open: list[Command] | None = None
        self._progress = threading.Condition()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._acknowledged = 0.0

    def start(self, *, load: bool = False) -> Self:
        """Take the snapshot and follow from there on, from a thread.

        Raises:
            StreamEnded: no snapshot came; or the server is not empty and ``load`` was not asked for.
        """
        with redis.Redis(host=self._address[0], port=self._address[1], decode_responses=True) as client:
            client.config_set("repl-diskless-sync-delay", 0)
            client.config_set("client-output-buffer-limit", "replica 0 0 0")
            if not load and client.dbsize():
                raise StreamEnded("the server is not empty: start following before anything is written")
            self._synchronise()
            if load:
                before = client.hget(f"{self.checker.account.mirror.root}ledger", "clock_ms")
                self.checker.account.load(client)
                if client.hget(f"{self.checker.account.mirror.root}ledger", "clock_ms") != before:
                    raise StreamEnded("somebody wrote while the pool was read")
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Hang up and end the thread."""
        self._stopped.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(timeout=10)
        if self._socket is not None:
            self._socket.close()

    def lag(self, client: redis.Redis) -> int:
        """Bytes that the server has written and that were not checked yet."""
        info: Any = client.info("replication")
        return int(info["master_repl_offset"]) - self.offset

    def catch_up(self, client: redis.Redis, timeout: float = 60.0) -> None:
        """Return once everything that the server has written by now is checked.

        Raises:
            StreamEnded: the stream ended before. TimeoutError: it took longer.
        """
        info: Any = client.info("replication")
        goal = int(info["master_repl_offset"])
        with self._progress:
            done = self._progress.wait_for(lambda: self.broken or self.offset >= goal, timeout)
        if self.broken:
            raise StreamEnded(self.broken)
        if not done:
            raise TimeoutError(f"the follower is at {self.offset}, the server at {goal}")

    # -- the handshake -------------------------------------------------------------------------------------------------

    def _synchronise(self) -> None:
        self._socket = socket.create_connection(self._address, timeout=30)
        self._say("PING")
        self._line()
        self._say("REPLCONF", "listening-port", "0")
        self._line()
        if self._diskless:
            self._say("REPLCONF", "capa", "eof")
            self._line()
        self._say("PSYNC", "?", "-1")
        words = self._line().split()
        if words[0] != b"+FULLRESYNC":
            raise StreamEnded(f"the server answered PSYNC with {words!r}")
        self.offset = int(words[2])
        header = self._line()
        if header.startswith(_EOF):
            self._skip_until(header[len(_EOF) :])
        else:
            self._skip(int(header[1:]))

    def _say(self, *words: str) -> None:
        assert self._socket is not None
        self._socket.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]

    def _receive(self) -> bytes:
        assert self._socket is not None
        data = self._socket.recv(_CHUNK)
        if not data:
            raise StreamEnded("the server hung up")
        return data

    def _line(self) -> bytes:
        """The next line that is not one of the empty ones that keep the connection alive."""
        while True:
            while b"\n" not in self._rest:
                self._rest += self._receive()
            line, _, self._rest = self._rest.partition(b"\n")
            if line := line.strip(b"\r"):
                return line

    def _skip(self, size: int) -> None:
        while len(self._rest) < size:
            size -= len(self._rest)
            self._rest = self._receive()
        self._rest = self._rest[size:]

    def _skip_until(self, mark: bytes) -> None:
        while mark not in self._rest:
            self._rest = self._rest[-len(mark) :] + self._receive()
        self._rest = self._rest.partition(mark)[2]

    # -- the stream ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._socket is not None
        self._socket.settimeout(_ACK_SECONDS / 2)
        try:
            self._take(self._rest)
            while not self._stopped.is_set():
                with contextlib.suppress(TimeoutError):
                    self._take(self._receive())
                if time.monotonic() - self._acknowledged > _ACK_SECONDS:
                    self._acknowledge()
        except (OSError, StreamEnded) as error:
            self._end("" if self._stopped.is_set() else f"the stream ended: {error}")
        except Exception as error:
            self._end(f"the follower failed: {error!r}")
            raise

    def _end(self, why: str) -> None:
        with self._progress:
            self.broken = why
            self._progress.notify_all()

    def _acknowledge(self) -> None:
        self._say("REPLCONF", "ACK", str(self.offset))
        self._acknowledged = time.monotonic()

    def _take(self, data: bytes) -> None:
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            self._command(command)
        with self._progress:
            self.offset += len(data)
            self._progress.notify_all()

    def _command(self, command: list[str]) -> None:
        name = command[0].upper()
        if name == "SELECT":
            self._database = command[1]
        elif name == "MULTI":
            self._open = []
        elif name == "EXEC":
            transaction, self._open = self._open or [], None
            self._transaction(transaction)
        elif name == "REPLCONF" and command[1].upper() == "GETACK":
            self._acknowledge()
        elif self._open is not None:
            self._open.append(command)
        else:
            self._transaction([command])

    def _transaction(self, commands: list[Command]) -> None:
        if self._database != "0":
            return
        step = self.checker.apply(commands)
        if self._on_event is not None:
            for event in step.events:
                self._on_event(event)
