"""`gpubroker serve` in a thread: the real application on a real socket, stopped and started as a test wants it."""

from __future__ import annotations

import asyncio
import socket
import threading

import uvicorn

from broker.http.app import create_app
from broker.http.server import Server
from broker.http.settings import HttpSettings


class Served:
    """A server that runs; started again it listens on the same port."""

    def __init__(self, settings: HttpSettings) -> None:
        """Start it on a free port."""
        self._settings, self.port = settings, 0
        self.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Listen, and return once it answers."""
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", self.port))
        self.port = bound.getsockname()[1]
        app = create_app(self._settings)
        listening = threading.Event()
        config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=5)
        self._closing: asyncio.Event = app.state.serving.closing
        self._server = Server(config, self._closing, lambda line: listening.set())
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [bound]}, daemon=True)
        self._thread.start()
        assert listening.wait(20), "the server does not listen"

    def stop(self) -> None:
        """End it, as SIGTERM would."""
        if self._thread.is_alive():
            self._server.handle_exit(15, None)
            self._thread.join(20)
            assert not self._thread.is_alive(), "the server does not end"
