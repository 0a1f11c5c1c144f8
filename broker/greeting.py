"""What every new connection says first: under which server the ledger goes on from here.

A server that took over may lack what was granted last. The script ``hello`` compares its run id with that of the server
under which the ledger was last written, and begins a new epoch when it is another (law 11).
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any
from weakref import WeakSet

import redis
from redis import exceptions

from broker.connection import not_allowed
from broker.ledger.keys import Keys
from broker.ledger.scripts import script

_RUN_ID = re.compile(r"^run_id:(\w+)", re.MULTILINE)
_REPLICA = re.compile(r"^role:slave", re.MULTILINE)


class Greeter:
    """Says hello for one pool's client, once a connection."""

    def __init__(self, keys: Keys, *, primary_only: bool) -> None:
        """``primary_only``: a replica is somebody who must not be talked to, since its primary can be found."""
        self._keys = keys
        self._primary_only = primary_only
        #: Connections whose hello a server refused for now, or that came before there was a ledger. A replica that is
        #: promoted under an open connection is another primary too: they are closed before anything is written.
        self.unsaid: WeakSet[Any] = WeakSet()

    def greet(self, connection: Any) -> None:
        """Log in and say hello.

        Raises:
            redis.ConnectionError: it is a replica, or does not answer.
        """
        connection.on_connect()
        words = self._words(connection)
        command = next(words)
        try:
            while True:
                try:
                    connection.send_command(*command)
                    reply = connection.read_response()
                except exceptions.ResponseError as error:
                    command = words.throw(error)
                else:
                    command = words.send(reply)
        except StopIteration:
            return

    async def greet_async(self, connection: Any) -> None:
        """As ``greet``, awaited."""
        await connection.on_connect()
        words = self._words(connection)
        command = next(words)
        try:
            while True:
                try:
                    await connection.send_command(*command)
                    reply = await connection.read_response()
                except exceptions.ResponseError as error:
                    command = words.throw(error)
                else:
                    command = words.send(reply)
        except StopIteration:
            return

    def _words(self, connection: Any) -> Generator[tuple[str | int, ...], Any, None]:
        self.unsaid.discard(connection)
        try:
            told = yield "INFO", "server", "replication"
            text = _text(told)
            if self._primary_only and _REPLICA.search(text):
                raise redis.ConnectionError("the server is a replica now, its primary another")
            if found := _RUN_ID.search(text):
                # Most are greeted by reading alone, which a user may do who must not run scripts.
                primary, epoch, token = yield "HMGET", self._keys.ledger, "primary", "epoch", "token"
                if primary is None or _text(primary) != found[1] or epoch is None:
                    epoch = (yield from self._hello(found[1])) if token is not None else "0"
                if epoch in ("0", b"0"):
                    self.unsaid.add(connection)
        except exceptions.ResponseError as error:
            # A user without INFO cannot tell servers apart, now or later; all else may be otherwise the next time.
            if not not_allowed(error):
                self.unsaid.add(connection)

    def _hello(self, run_id: str) -> Generator[tuple[str | int, ...], Any, Any]:
        hello, keys = script("hello"), self._keys.declared
        try:
            return (yield "EVALSHA", hello.sha, len(keys), *keys, run_id)
        except exceptions.NoScriptError:
            return (yield "EVAL", hello.text, len(keys), *keys, run_id)


def _text(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)
