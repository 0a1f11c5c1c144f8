"""Waiting at several doors at once: a job may come from any queue, and a hint from the ledger, maybe on another server.

Each door is a blocking command of Redis on a connection of its own; the kernel says which answers first. The others are
called off and asked whether they had let somebody in meanwhile: nothing that was popped is lost on the way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import redis
from redis import Redis

#: A pool of connections to the server, and the command that blocks there.
Asked = tuple[Any, tuple[Any, ...]]
Rest = Callable[[list[int], float], object]


class _Door:
    """One connection and its number at the server."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self._connection = pool.get_connection()
        self._connection.send_command("CLIENT", "ID")
        self.number = int(self._connection.read_response())

    def knock(self, command: tuple[Any, ...]) -> int:
        """Send the command; the socket's descriptor."""
        self._connection.send_command(*command)
        return int(self._connection._sock.fileno())

    def answer(self) -> Any:
        """What came; ``None`` if nobody."""
        try:
            return self._connection.read_response()
        except redis.ResponseError:  # called off by a server that became a replica
            return None

    def close(self) -> None:
        with contextlib.suppress(redis.RedisError, OSError):
            self._connection.disconnect()
            self.pool.release(self._connection)


class Doors:
    """The doors of one worker, kept open between two waits."""

    def __init__(self) -> None:
        """Open none yet."""
        self._open: dict[str, _Door] = {}

    def wait(self, asked: Mapping[str, Asked], seconds: float, rest: Rest, answers: dict[str, Any]) -> None:
        """Knock at each door and rest until one opens or the time is over; ``answers`` is filled with who came.

        ``rest`` sleeps on the descriptors and may raise, to end the wait; ``answers`` is complete even then.

        Raises:
            RedisError: a server cannot be reached. What it had answered may then lie in a worker's hands.
        """
        try:
            waiting = {name: self._door(name, pool).knock(command) for name, (pool, command) in asked.items()}
        except BaseException:
            self.close()
            raise
        try:
            rest(list(waiting.values()), seconds)
        finally:
            self._collect(list(waiting), answers)

    def _door(self, name: str, pool: Any) -> _Door:
        door = self._open.get(name)
        if door is None or door.pool is not pool:
            if door is not None:
                door.close()
            door = self._open[name] = _Door(pool)
        return door

    def _collect(self, names: list[str], answers: dict[str, Any]) -> None:
        """Call off who still waits, and read every door's one answer."""
        failed: BaseException | None = None
        by_pool: dict[int, list[_Door]] = {}
        for name in names:
            by_pool.setdefault(id(self._open[name].pool), []).append(self._open[name])
        try:
            for doors in by_pool.values():
                with Redis(connection_pool=doors[0].pool).pipeline(transaction=False) as pipeline:
                    for door in doors:
                        pipeline.client_unblock(door.number)
                    pipeline.execute()
        except redis.RedisError as error:
            failed = error
        for name in names:
            try:
                answer = self._open[name].answer() if failed is None else None
            except (redis.RedisError, OSError) as error:
                failed, answer = error, None
            if answer is not None:
                answers[name] = answer
        if failed is not None:
            self.close()
            raise failed

    def close(self) -> None:
        """Leave every door. A command that still waits there ends with its connection."""
        for door in self._open.values():
            door.close()
        self._open.clear()
