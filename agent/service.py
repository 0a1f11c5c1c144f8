"""The agent as a service: what systemd hears, one agent for each host, the machine's boot, logs for programs."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import json as json_format
import logging
import os
import re
import socket
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from broker.connection import parse_url
from broker.errors import InvalidRequest

#: Names this use of the boot's id, which itself is to be kept private: machine-id(5).
_APPLICATION = b"gpubroker agent "
#: systemd reads its socket at once; a stuck one must not stop the agent.
_NOTIFY_SECONDS = 1.0
_PAIR = re.compile(r"""(\w[\w.-]*)=("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\S*)(?=\s|$)""", re.ASCII)


def notify(text: str) -> bool:
    """Tell the service manager, by https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html.

    ``text`` is one ``NAME=VALUE`` or several, one a line. Nothing happens without ``NOTIFY_SOCKET``; a manager that
    does not hear changes nothing. Whether it was sent.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return False
    # Linux spells a name that is in no folder with a first byte 0.
    address = os.fsencode(path).replace(b"@", b"\0", 1) if path[0] == "@" else os.fsencode(path)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.settimeout(_NOTIFY_SECONDS)
            out.sendto(text.encode("utf-8", "replace"), address)
    except OSError:
        return False
    return True


class Watchdog:
    """Tells the service manager how the agent fares; with ``WatchdogSec=`` it restarts one that is silent for so long.

    ``seconds`` is that time, ``None`` if it does not watch this process.
    """

    def __init__(self) -> None:
        """Read ``WATCHDOG_USEC`` and ``WATCHDOG_PID``."""
        try:
            micros = int(os.environ["WATCHDOG_USEC"])
            mine = int(os.environ.get("WATCHDOG_PID") or os.getpid()) == os.getpid()
        except (KeyError, ValueError):
            micros, mine = 0, False
        self.seconds = micros / 1e6 if micros > 0 and mine else None

    def ready(self, status: str) -> None:
        """The agent has begun."""
        notify(f"READY=1\nSTATUS={_line(status)}")

    def alive(self, status: str) -> None:
        """A look came to its end: judged, and handed over or refused. Never from a thread that only ticks."""
        notify(f"WATCHDOG=1\nSTATUS={_line(status)}" if self.seconds else f"STATUS={_line(status)}")

    def pace(self, interval_seconds: float) -> None:
        """Looks are so far apart: have a watch that is too short for three of them extended."""
        if self.seconds is not None and self.seconds < 3 * interval_seconds:
            self.seconds = 3 * interval_seconds
            notify(f"WATCHDOG_USEC={round(self.seconds * 1e6)}")

    def stopping(self) -> None:
        """The agent is about to leave."""
        notify("STOPPING=1\nSTATUS=leaving")


def _line(text: str) -> str:
    """On one line: a second one would be a message of its own."""
    return " ".join(text.split())


class HostLock:
    """That no other agent on this machine publishes for the same host of the same pool.

    The kernel lets it go with the process, however that ends. It binds agents that share the folder: that of
    ``XDG_RUNTIME_DIR``, else ``/run/gpubroker``, else the one for temporary files. A child process that was forked
    without exec holds it as well.
    """

    def __init__(self, redis_url: str, pool: str, host: str) -> None:
        """A lock that is not taken yet; raises InvalidRequest for a URL that is none."""
        address = parse_url(redis_url)
        where = tuple(sorted(address.seeds)) or (
            address.options.get("path") or address.options.get("host", "localhost"),
            address.options.get("port", 6379),
        )
        place = (address.kind, where, address.service, int(address.options.get("db") or 0), pool, host)
        self._host = host
        self.path = _folder() / f"agent-{hashlib.sha256(repr(place).encode()).hexdigest()[:32]}.lock"
        self._file = -1

    def __enter__(self) -> Self:
        """Take it, and write this process's pid into its file.

        Raises:
            InvalidRequest: another agent has it, or its file is not to be trusted.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._file = os.open(self.path, flags, 0o600)
            facts = os.fstat(self._file)
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_nlink > 1:
                raise OSError("it is not this user's own file")
            os.fchmod(self._file, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            self.release()
            who = f"process {holder}" if holder else "another process"
            allowed = f"a host that no other agent publishes for; {who} does already"
            raise InvalidRequest("--host", self._host, allowed) from None
        except OSError as error:
            self.release()
            allowed = f"a host whose lock can be taken; {self.path}: {error.strerror or error}"
            raise InvalidRequest("--host", self._host, allowed) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it go."""
        self.release()

    def release(self) -> None:
        """Let it go. The file stays: whoever waits to open it must find the same one."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _folder() -> Path:
    for name in (os.environ.get("XDG_RUNTIME_DIR", ""), "/run/gpubroker"):
        if os.path.isabs(name) and os.access(name, os.W_OK | os.X_OK):
            return Path(name)
    import tempfile  # here, as the agent is to stay small

    return Path(tempfile.gettempdir())


def machine(source: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """16 hex digits that name this boot of this machine, in its containers too; ``""`` where there is none."""
    try:
        boot = source.read_bytes().strip()
    except OSError:
        return ""
    return hashlib.sha256(_APPLICATION + boot).hexdigest()[:16] if boot else ""


def configure_logging(json: bool) -> None:
    """Log to stderr from INFO on: ``event=NAME key=value`` lines after time and level, or a JSON object a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if json else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class JsonLines(logging.Formatter):
    """``{"time", "level", "event", "fields"}``; ``message`` where the text is not all fields, ``exception`` if any.

    ``time`` is RFC 3339 in UTC; fields are texts, and quoted ones without their quotes.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        message = record.getMessage()
        fields = {name: _unquoted(value) for name, value in _PAIR.findall(message)}
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {"time": f"{when}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        line["event"] = fields.pop("event", "")
        line["fields"] = fields
        if not line["event"] or _PAIR.sub("", message).strip():
            line["message"] = message
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json_format.dumps(line)


def _unquoted(value: str) -> str:
    if value[:1] in ("'", '"') and value[-1:] == value[:1]:
        with contextlib.suppress(ValueError, SyntaxError):
            return str(ast.literal_eval(value))
    return value
