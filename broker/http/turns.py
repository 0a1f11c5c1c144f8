"""Work that is dear and the same for all: done once for everybody who asks meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from broker.errors import BrokerError

T = TypeVar("T")


class Turns(Generic[T]):
    """One at a time. Who asks while it is under way gets the next one's result, and shares it with all who wait."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        """Nothing is done yet."""
        self._work, self._lock = work, asyncio.Lock()
        self._began = float("-inf")
        self._told: T | BrokerError

    async def take(self) -> T:
        """The result.

        Raises:
            BrokerError: the work raised it, for all who waited.
        """
        asked = time.monotonic()
        async with self._lock:
            if self._began < asked:
                began = time.monotonic()
                try:
                    self._told = await self._work()
                except BrokerError as error:
                    self._told = error
                self._began = began
            told = self._told
        if isinstance(told, BrokerError):
            raise told
        return told
