"""The process: uvicorn around the application, from its first word to its last."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from broker.errors import BrokerError
from broker.http.app import create_app
from broker.http.settings import HttpSettings, check_bind
from broker.http.wire import Wire

#: Seconds that requests under way have to end.
_PATIENCE_SECONDS = 5
#: Connections that wait to be taken.
_BACKLOG = 1024
#: Files that the process may have open, if the machine lets it.
_FILES_MOST = 65_536
#: A thread at work (a check of the ledger) gives way to the loop this often; Python's own 5 ms are felt by who waits.
_SWITCH_SECONDS = 0.0005
#: A pool's hashes are no circles: the collector looks at them seldom, as a look at all of them takes tens of ms.
_COLLECTOR = (50_000, 20, 50)


class Server(uvicorn.Server):
    """Says where it listens, and lets streams end before it waits for requests to."""

    def __init__(self, config: uvicorn.Config, closing: asyncio.Event, said: Callable[[str], None]) -> None:
        """``closing`` is set when the server is told to end; ``said`` gets the line with its address."""
        super().__init__(config)
        self._closing, self._said = closing, said
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        for listening in self.servers:
            for bound in listening.sockets:
                self._said(f"page     {_url(bound.getsockname(), self.config.is_ssl)}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal asks it to end."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._closing.set)
        super().handle_exit(sig, frame)


def run(
    settings: HttpSettings, *, host: str, port: int, tls: tuple[Path, Path] | None, said: Callable[[str], None]
) -> None:
    """Serve until told to end.

    Raises:
        InvalidRequest: the address may not be listened on without tokens, or a setting is not allowed. BrokerError: it
            cannot listen there.
    """
    check_bind(host, settings)
    _allow_files()
    app = create_app(settings)
    bound = _listen(host, port)
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.freeze()
    gc.set_threshold(*_COLLECTOR)
    certificate, key = tls if tls is not None else (None, None)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, proxy_headers=False, ws="none", http=Wire,
        timeout_graceful_shutdown=_PATIENCE_SECONDS, ssl_certfile=certificate, ssl_keyfile=key,
    )  # fmt: skip
    # uvicorn raises the signal that ended it once more, when all is done: that is no failure.
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        Server(config, app.state.serving.closing, said).run(sockets=[bound])


def _allow_files() -> None:
    """As many connections as the machine allows: of the usual 1,024 that a process begins with, streams and the ways to
    Redis can take all, and then nobody is let in any more."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _FILES_MOST if hard == resource.RLIM_INFINITY else min(hard, _FILES_MOST)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        BrokerError: nobody can.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        raise BrokerError(f"cannot listen on {host} port {port}: {error.strerror or error}; name another") from None
    return bound


def _url(address: tuple[object, ...], secure: bool) -> str:
    host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
    return f"{'https' if secure else 'http'}://{host}:{address[1]}/"
