"""RQ's own connection: it stores bytes, so it cannot be the broker's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.connection import parse_url
from broker.errors import InvalidRequest
from broker.ledger.server import shown_url

if TYPE_CHECKING:
    from redis import Redis


def queue_connection(url: str) -> Redis:
    """A connection for RQ to where that URL leads; behind Sentinels to whichever server is the primary.

    Raises:
        InvalidRequest: none that RQ can use: a cluster's, or no URL of a Redis at all.
    """
    from redis import Redis

    address = parse_url(url)
    if address.kind == "server":
        return Redis.from_url(url)
    if address.kind == "cluster":
        allowed = (
            "a server or Sentinels: RQ cannot live in a cluster; @gpu_job(..., connection=Redis(...)) names its own"
        )
        raise InvalidRequest("connection", shown_url(url), allowed)
    from redis.sentinel import Sentinel

    tls = {"ssl": True} if address.tls else {}
    watchers = Sentinel(
        list(address.seeds), sentinel_kwargs={"socket_timeout": 1.0, **address.seed_options, **tls}, **tls
    )  # type: ignore[no-untyped-call]
    return watchers.master_for(address.service, **address.options)  # type: ignore[no-any-return,no-untyped-call]
