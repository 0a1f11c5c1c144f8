"""A pool whose every script is held against the model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from broker.embedded import EmbeddedServer
from tests.proof.walk import HOSTS, Walk


@pytest.fixture
def walk(redis_server: EmbeddedServer) -> Iterator[Walk]:
    """A pool whose agents have all published once."""
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        made = Walk(client)
        for host in HOSTS:
            made.sample(host)
        yield made
