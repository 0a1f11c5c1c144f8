"""The agent as a service: one for a host, known to systemd, with logs that programs read."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from broker.errors import InvalidRequest

log = logging.getLogger("gpubroker.agent")

#: What `RuntimeDirectory=` of the unit makes, too.
_FOR_ALL = Path("/run/gpubroker")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine() -> str:
    """16 hexadecimal digits that name this boot of this machine, also in its containers; ``""`` where there are none.

    A digest, since the id itself is to be kept private: https://www.freedesktop.org/software/systemd/man/machine-id.html
    """
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
    return hashlib.sha256(f"gpubroker agent {boot}".encode()).hexdigest()[:16]


class HostLock:
    """While it is held no other agent of this machine publishes for the host; it goes with the process."""

    def __init__(self, redis_url: str, pool: str, host: str) -> None:
        """Name the lock; the URL's password is no part of it."""
        url = urlsplit(redis_url)
        words = f"{url.scheme} {url.hostname} {url.port} {url.path} {pool} {host}"
        self._host = host
        self.path = _folder() / f"agent-{hashlib.sha256(words.encode()).hexdigest()[:16]}.lock"
        self._file: int | None = None

    def __enter__(self) -> Self:
        """Take it.

        Raises:
            InvalidRequest: another process holds it, or it cannot be made.
        """
        allowed = "a host that no other agent of this machine publishes for"
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            why = f"a lock at {self.path}, which cannot be made ({error.strerror})"
            raise InvalidRequest("--host", self._host, why) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            who = os.pread(file, 20, 0).decode(errors="replace").strip()
            os.close(file)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise InvalidRequest("--host", self._host, f"{allowed}; process {who or '?'} does already") from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file
        return self

    def __exit__(self, *rest: object) -> None:
        """Let it go. The file stays: who removed it could not know that nobody had just taken it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _folder() -> Path:
    """Where this user may keep a lock that every agent of its own looks at, under systemd or started by hand."""
    if os.getuid() == 0 and "RUNTIME_DIRECTORY" not in os.environ:
        try:
            _FOR_ALL.mkdir(exist_ok=True)
        except OSError:
            log.debug("event=no_folder folder=%s", _FOR_ALL)
    of_service = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or str(_FOR_ALL)
    for name in (of_service, os.environ.get("XDG_RUNTIME_DIR", "")):
        if name and os.path.isdir(name) and os.access(name, os.W_OK):
            return Path(name)
    import tempfile  # here, as the agent is to stay small

    own = Path(tempfile.gettempdir()) / f"gpubroker-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    seen = own.lstat()
    if seen.st_uid != os.getuid() or seen.st_mode & 0o077 or own.is_symlink():
        raise InvalidRequest("temporary folder", str(own), "a folder that is this user's alone")
    return own


class Watchdog:
    """Tells systemd that the agent lives: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html.

    The word is sent after a look that was judged and handed over, so that one who is stuck is started again.
    """

    def __init__(self) -> None:
        """Nothing is told yet."""
        self._ready = False

    def alive(self, status: str) -> None:
        """A look is done; at the first one the service is ready."""
        first, self._ready = not self._ready, True
        notify(("READY=1\n" if first else "") + f"WATCHDOG=1\nSTATUS={' '.join(status.split())}")

    def stopping(self) -> None:
        """The agent says goodbye."""
        notify("STOPPING=1")


def notify(text: str) -> None:
    """Tell whoever started this process, if it asked to be told (``$NOTIFY_SOCKET``)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address[0] == "@":  # an abstract one
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.sendto(text.encode(), address)
    except OSError as error:
        log.debug("event=notify_failed error=%r", str(error))


class _Json(logging.Formatter):
    """A log line as an object: what stands in it as ``name=value`` are its fields."""

    def format(self, record: logging.LogRecord) -> str:
        import shlex

        text = record.getMessage()
        said: dict[str, object] = {"time": self.formatTime(record), "level": record.levelname.lower()}
        try:
            words = [word.partition("=") for word in shlex.split(text)]
        except ValueError:  # an apostrophe in somebody's words
            words = []
        if words and all(equals for _, equals, _ in words):
            said |= {name: value for name, _, value in words}
        else:
            said["message"] = text
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)


def configure_logging(as_json: bool) -> None:
    """Log to standard error, a line an event: ``event=… name=value``, or an object of JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
