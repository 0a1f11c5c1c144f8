"""What the ledger needs of the server it lives on, and how that server's address may be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from broker.errors import PoolUnavailable

#: Redis 7.0 brought scripts with declared flags (``#!lua``), which the ledger's scripts start with.
LEAST_VERSION = (7, 0)

_VERSION = re.compile(r"(\d+)\.(\d+)", re.ASCII)
# Up to the last "@": a password that should have been percent-encoded is hidden all the same.
_USER_INFO = re.compile(r"(?<=://)(?P<user>[^:@/]*):.*(?=@)")
_QUERY_SECRET = re.compile(r"(?i)(?<=[?&])(?P<name>[a-z_]*password)=[^&#]*")


def require_version(info: Mapping[str, Any], url: str) -> None:
    """Accept the server that answered ``INFO server`` with ``info``.

    Raises:
        PoolUnavailable: it is older than Redis 7.0, or does not say what it is.
    """
    name = "Valkey" if "valkey_version" in info or info.get("server_name") == "valkey" else "Redis"
    told = str(info.get("valkey_version") or info.get("redis_version") or "")
    version = _VERSION.match(told)
    least = ".".join(map(str, LEAST_VERSION))
    if version is None:
        raise PoolUnavailable(
            f"the server at {shown_url(url)} does not tell its version: Redis or Valkey {least} or newer is needed"
        )
    if (int(version[1]), int(version[2])) < LEAST_VERSION:
        raise PoolUnavailable(
            f"{name} {told} at {shown_url(url)} is too old: Redis or Valkey {least} or newer is needed"
        )


def shown_url(url: str) -> str:
    """``url`` without its passwords, for messages, logs and screens."""
    return _QUERY_SECRET.sub(r"\g<name>=***", _USER_INFO.sub(r"\g<user>:***", url))


def run_id(info: Mapping[str, Any]) -> str:
    """The name that a server gave itself when it began to run, from ``INFO server``; empty if it does not tell."""
    return str(info.get("run_id") or "")
