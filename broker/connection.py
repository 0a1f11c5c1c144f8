"""How a client talks to Redis: URLs, retries, timeouts, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import ResponseError

from broker.calls import broker_error
from broker.errors import BrokerError, InvalidRequest, PoolUnavailable
from broker.ledger.server import shown_url

C = TypeVar("C")


def check_url(url: object) -> str:
    """A URL that redis-py takes.

    Raises:
        InvalidRequest: it is not.
    """
    allowed = "redis://HOST:PORT/DB, rediss://… or unix:///PATH"
    shown = shown_url(url) if isinstance(url, str) else url
    if not isinstance(url, str) or not url.startswith(("redis://", "rediss://", "unix://")):
        raise InvalidRequest("redis_url", shown, allowed)
    try:
        if not (urlsplit(url).port or True):
            raise ValueError
        redis.connection.parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError:
        raise InvalidRequest("redis_url", shown, allowed) from None
    return url


def connect(kind: Any, url: str) -> Any:
    """A client of that kind on this URL. Retries are safe, since every command of the ledger is idempotent.

    The socket's timeout (5 s) is longer than any blocking command of ours (4 s); a server that refuses is
    reported within two seconds, one that does not answer within about twenty.
    """
    retry_kind = redis.asyncio.retry.Retry if kind is redis.asyncio.Redis else redis.retry.Retry
    return kind.from_url(
        url,
        decode_responses=True,
        socket_timeout=5,
        socket_connect_timeout=2,
        # Without one, every new connection looks redis-py's own version up on the disk.
        driver_info=DriverInfo(),
        retry=retry_kind(ExponentialWithJitterBackoff(base=0.1, cap=1), 3),
    )


def url_of(client: Any) -> str:
    """Where a client goes, without its password, for messages."""
    at = client.connection_pool.connection_kwargs
    return f"unix://{at['path']}" if "path" in at else f"redis://{at.get('host')}:{at.get('port')}/{at.get('db', 0)}"


def translate(error: redis.RedisError, url: str) -> BrokerError:
    """The broker's own error for one of redis-py's."""
    if isinstance(error, ResponseError):
        own = broker_error(str(error))
        if own is not None:
            return own
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return PoolUnavailable(f"Redis cannot be reached at {url}: {error}")
    return PoolUnavailable(f"Redis at {url} refused: {error}")


def entries(reply: Any) -> Iterable[tuple[str, dict[str, str]]]:
    """Stream entries, however deep the client's protocol nests them."""
    for entry in reply:
        if len(entry) == 2 and isinstance(entry[0], str):
            yield entry[0], entry[1]
        else:
            yield from entries(entry)
