"""Which servers the ledger accepts, and how an address is shown."""

from __future__ import annotations

import pytest

from broker.errors import PoolUnavailable
from broker.ledger.server import require_version, shown_url

URL = "redis://:secret@db:6379/0"


@pytest.mark.parametrize(
    "info",
    [
        {"redis_version": "7.0.15"},
        {"redis_version": "8.2.1"},
        {"server_name": "valkey", "valkey_version": "9.1.2", "redis_version": "7.2.4"},
        {"server_name": "valkey", "redis_version": "7.2.4"},
    ],
)
def test_redis_and_valkey_from_7_on_are_accepted(info: dict[str, str]) -> None:
    require_version(info, URL)


def test_redis_6_is_refused_with_its_version_the_least_one_and_no_password() -> None:
    with pytest.raises(PoolUnavailable) as refusal:
        require_version({"redis_version": "6.2.14"}, URL)
    assert str(refusal.value) == (
        "Redis 6.2.14 at redis://:***@db:6379/0 is too old: Redis or Valkey 7.0 or newer is needed"
    )


@pytest.mark.parametrize("info", [{}, {"redis_version": "unstable"}])
def test_a_server_that_does_not_tell_its_version_is_refused(info: dict[str, str]) -> None:
    with pytest.raises(PoolUnavailable, match="does not tell its version"):
        require_version(info, URL)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:pw@h:1/0", "redis://:***@h:1/0"),
        ("rediss://user:p@ss:w/rd@h:1/0?x=1", "rediss://user:***@h:1/0?x=1"),
        ("redis://h/0?password=pw&db=1", "redis://h/0?password=***&db=1"),
        ("redis+sentinel://:pw@a:1,b:2/main?sentinel_password=pw", "redis+sentinel://:***@a:1,b:2/main?sentinel_password=***"),
        ("unix://user:pw@/run/redis.sock", "unix://user:***@/run/redis.sock"),
    ],
)  # fmt: skip
def test_a_password_in_a_url_is_never_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown
