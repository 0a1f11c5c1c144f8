"""How a client talks to Redis: URLs, retries, timeouts, and what its errors mean."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import redis
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff
from redis.driver_info import DriverInfo

from broker.errors import BrokerError, InvalidRequest, PoolAway, PoolUnavailable
from broker.ledger.server import shown_url
from broker.refusals import broker_error

if TYPE_CHECKING:
    from broker.finding import Places

C = TypeVar("C")

_ALLOWED = (
    "redis://HOST:PORT/DB, rediss://…, unix:///PATH, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB"
    " or redis+cluster://HOST:PORT,HOST:PORT"
)
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_SENTINEL_PORT, _SERVER_PORT = 26379, 6379

#: How long one request is tried again while the server says that another one is in charge, or soon will be.
PATIENCE_SECONDS = 4.0
_WAIT_SECONDS, _WAIT_MOST_SECONDS = 0.02, 0.5

#: Answers of a server that is not, or not now, the one to ask; nothing was done.
_ELSEWHERE = (exceptions.AskError, exceptions.TryAgainError, exceptions.ClusterDownError, exceptions.ReadOnlyError)


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says: the servers named in it, the Sentinels' name for the service, and redis-py's options."""

    kind: str  # "server" | "sentinel" | "cluster"
    seeds: tuple[tuple[str, int], ...]
    service: str
    tls: bool
    options: dict[str, Any]  # for the ledger's server
    seed_options: dict[str, Any]  # for the servers named, who tell where that is


def parse_url(url: object) -> Address:
    """What a URL says.

    Raises:
        InvalidRequest: it is none that the broker takes.
    """
    try:
        if not isinstance(url, str):
            raise ValueError
        scheme, plus, kind = url.partition("://")[0].partition("+")
        if not plus:
            return _server(url)
        if scheme not in ("redis", "rediss") or kind not in ("sentinel", "cluster"):
            raise ValueError
        return _several(url, scheme, kind)
    except ValueError:
        raise InvalidRequest("redis_url", shown_url(url) if isinstance(url, str) else url, _ALLOWED) from None


def check_url(url: object) -> str:
    """A URL that the broker takes.

    Raises:
        InvalidRequest: it is not.
    """
    parse_url(url)
    return str(url)


def _server(url: str) -> Address:
    if not url.startswith(("redis://", "rediss://", "unix://")) or not (urlsplit(url).port or True):
        raise ValueError
    return Address("server", (), "", False, redis.connection.parse_url(url), {})  # type: ignore[no-untyped-call]


def _several(url: str, scheme: str, kind: str) -> Address:
    """Redis-py reads one host at a time: each becomes a URL of its own, with the others' user, path and options."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    path = [unquote(word) for word in parts.path.strip("/").split("/") if word]
    service = path.pop(0) if kind == "sentinel" and path else ""
    if (kind == "sentinel") != bool(_SERVICE.fullmatch(service)) or len(path) > 1 or (kind == "cluster" and path):
        raise ValueError
    database = int(path[0]) if path else 0
    seeds, options = [], dict[str, Any]()
    for host in hosts.split(","):
        options = redis.connection.parse_url(f"{scheme}://{user}{at}{host}/{database}?{parts.query}")  # type: ignore[no-untyped-call]
        if "host" not in options:
            raise ValueError
        seeds.append((options.pop("host"), options.pop("port", _SENTINEL_PORT if service else _SERVER_PORT)))
    options.pop("connection_class", None)
    own = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    seed_options = {name: value for name, value in options.items() if name not in ("db", "username", "password")}
    if kind == "cluster":
        own = {name: options.get(name) for name in own}
    return Address(kind, tuple(seeds), service, scheme == "rediss", options, seed_options | own)


def usual(kind: Any, retries: int = 3) -> dict[str, Any]:
    """The options of every client of that kind. Retries are safe, since every command of the ledger is idempotent.

    The socket's timeout (5 s) is longer than any blocking command of ours (4 s); a server that refuses is
    reported within two seconds, one that does not answer within about twenty.
    """
    retry_kind = redis.asyncio.retry.Retry if kind is redis.asyncio.Redis else redis.retry.Retry
    return {
        "decode_responses": True,
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        # Without one, every new connection looks redis-py's own version up on the disk.
        "driver_info": DriverInfo(),
        "retry": retry_kind(ExponentialWithJitterBackoff(base=0.1, cap=1), retries),
    }


def url_of(client: Any) -> str:
    """Where a client goes, without its password, for messages."""
    at = client.connection_pool.connection_kwargs
    return f"unix://{at['path']}" if "path" in at else f"redis://{at.get('host')}:{at.get('port')}/{at.get('db', 0)}"


class Tries:
    """One request that a server refused because another is in charge, or soon will be: how it goes on."""

    def __init__(self, places: Places | None, url: str) -> None:
        """Begin to count at the first refusal. Without ``places`` there is one address only."""
        self._places = places
        self._url = url
        self._ends = time.monotonic() + PATIENCE_SECONDS
        self._wait = 0.0
        #: Another server to ask this once, in the midst of a slot's move.
        self.aside: tuple[str, int] | None = None

    def after(self, error: redis.RedisError) -> float:
        """How many seconds to wait before the next try.

        Raises:
            BrokerError: another try is of no use, or there were enough.
        """
        self.aside = None
        redirected = isinstance(error, exceptions.AskError)
        demoted = str(error).startswith("UNBLOCKED")  # the primary became a replica while a request slept
        if not (isinstance(error, _ELSEWHERE) or demoted) or (redirected and self._places is None):
            raise translate(error, self._url) from error
        if time.monotonic() >= self._ends:
            raise translate(error, self._url) from error
        if isinstance(error, exceptions.AskError) and self._places is not None:
            where = self._places.told(error.host, error.port)
            if isinstance(error, exceptions.MovedError):
                self._places.known = where
            else:
                self.aside = where
        elif self._places is not None and not isinstance(error, exceptions.TryAgainError):
            self._places.known = None
        wait, self._wait = self._wait, min(max(2 * self._wait, _WAIT_SECONDS), _WAIT_MOST_SECONDS)
        return wait if redirected else self._wait


#: How servers begin to say that a command inside a script is not its user's: Redis 7.2 and Valkey, Redis 7.0.
_DENIED = ("ACL failure", "The user executing the script")


def not_allowed(error: redis.RedisError) -> bool:
    """Whether the user may not do it; in a script some servers tell so in words only."""
    return isinstance(error, exceptions.NoPermissionError) or str(error).startswith(_DENIED)


def translate(error: redis.RedisError, url: str) -> BrokerError:
    """The broker's own error for one of redis-py's."""
    if isinstance(error, exceptions.ResponseError):
        own = broker_error(str(error))
        if own is not None:
            return own
    for kind, hint in _HINTS:
        if isinstance(error, kind) or (kind is exceptions.NoPermissionError and not_allowed(error)):
            away = PoolAway if kind in _ELSEWHERE[1:] else PoolUnavailable  # but for an address that is wrong
            return away(f"Redis at {url} refused: {hint} ({error})")
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return PoolAway(
            f"Redis cannot be reached at {url}: {error}; start it (`gpubroker up` does, and says"
            " where), or name another: --redis-url or GPUBROKER_REDIS_URL"
        )
    return PoolUnavailable(f"Redis at {url} refused: {error}")


_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.AskError, "the pool is on another node of a cluster; use a URL redis+cluster://"),
    (exceptions.TryAgainError, "the pool is being moved to another node of the cluster; try again when it is there"),
    (exceptions.ClusterDownError, "the cluster does not serve the pool now; see CLUSTER INFO, and try again"),
    (exceptions.ReadOnlyError, "it is a replica; name the primary, or let Sentinels name it by redis+sentinel://"),
    (exceptions.NoPermissionError, "its user may not do this; see docs/deployments.md for what a user needs"),
    (exceptions.AuthenticationError, "it wants another user or password than the URL's, redis://USER:PASSWORD@…"),
    (exceptions.OutOfMemoryError, "it is out of memory; leases can still be renewed and released"),
)


def entries(reply: Any) -> Iterable[tuple[str, dict[str, str]]]:
    """Stream entries, however deep the client's protocol nests them."""
    for entry in reply:
        if len(entry) == 2 and isinstance(entry[0], str):
            yield entry[0], entry[1]
        else:
            yield from entries(entry)
