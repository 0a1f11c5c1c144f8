"""The jobs that every queue of the comparison runs. Imports no more than they need."""

from __future__ import annotations

import importlib
import json
import os
import time
from typing import Any

from redis import Redis

_CLIENTS: dict[tuple[str, str], Any] = {}


def nothing() -> None:
    """A job that does nothing."""


def hold(url: str, key: str, tag: str) -> None:
    """Say that it began, and which process it is; stay until told to go; say when it ended.

    It says so on the list ``told:KEY``, and goes at a word on ``go:KEY:TAG``, so it is the same for every queue.
    """
    began = time.perf_counter()
    with Redis.from_url(url, socket_timeout=None) as redis:  # it waits longer than the usual five seconds
        said = {"tag": tag, "at": began, "pid": os.getpid(), "parent": os.getppid()}
        redis.rpush(f"told:{key}", json.dumps(said))
        redis.blpop([f"go:{key}:{tag}"])
        redis.rpush(f"ended:{key}", time.perf_counter())


def under(module: str, url: str, name: str) -> None:
    """Nothing, under a peer's lock: taken and given back in the job, by a client that stays with its worker."""
    client = _CLIENTS.get((module, url))
    if client is None:
        client = _CLIENTS[module, url] = importlib.import_module(f"benchmarks.peer.{module}").opened(url)
    held = client.take(name, 10.0)
    if held is None:
        raise RuntimeError("what nobody else wants was not lent")
    client.give(held)
