"""A proxy that loses every Nth reply: the server has done what it was asked for, and the connection is cut instead."""

from __future__ import annotations

from typing import Any

from tests.proof.proxy import HANDSHAKE, Proxy


class LosingProxy(Proxy):
    """Counts requests over all connections together; a connection's own handshake does not count."""

    def __init__(self, target_host: str, target_port: int, every: int) -> None:
        """Lose the reply to every ``every``-th request."""
        super().__init__(target_host, target_port)
        self._every, self._asked = every, 0
        #: While it is, nothing is lost.
        self.quiet = False

    def _mark(self, link: Any, request: bytes) -> None:
        if self.quiet or any(word in request[:40].upper() for word in HANDSHAKE):
            return
        with self._lock:
            self._asked += 1
            if self._asked % self._every == 0:
                link.doomed = True
