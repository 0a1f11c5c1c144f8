"""What the server runs by: where the ledger is, who may come in, and how much is taken from whom."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from broker.errors import InvalidRequest
from broker.settings import DEFAULT_URL

#: Tokens where there is no file of them: ``SCOPE:TOKEN`` parted by blanks or commas.
TOKENS_VARIABLE = "GPUBROKER_HTTP_TOKENS"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, and all of them together, may ask for. A refusal says when to come again.

    ``rate`` and ``burst`` are requests (a second, and at once) of one client; ``waiting`` and ``streams`` how many
    allocates may wait and event streams may be open, in all and of one client.
    """

    body_bytes: int = 64 * 1024
    depth: int = 16
    rate: float = 200.0
    burst: int = 400
    waiting: int = 256
    waiting_of_one: int = 64
    streams: int = 1024
    streams_of_one: int = 512
    wait_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where the ledger is, who may come in. ``tokens`` is the text of ``GPUBROKER_HTTP_TOKENS``; never printed."""

    redis_url: str = field(default=DEFAULT_URL, repr=False)
    pool: str = "default"
    token_file: Path | None = None
    tokens: str = field(default="", repr=False)
    limits: Limits = Limits()

    @classmethod
    def from_environment(cls, **given: object) -> HttpSettings:
        """The settings with the tokens of the environment."""
        return cls(tokens=os.environ.get(TOKENS_VARIABLE, ""), **given)  # type: ignore[arg-type]

    @property
    def open(self) -> bool:
        """Whether no token is asked for: then loopback alone is served."""
        return self.token_file is None and not self.tokens.strip()


def check_bind(host: str, settings: HttpSettings) -> None:
    """That the server may listen on ``host``.

    Raises:
        InvalidRequest: others than this machine could reach it, and it asks for no token.
    """
    if settings.open and not is_loopback(host):
        allowed = "127.0.0.1, ::1 or localhost, unless tokens are asked for: --token-file or " + TOKENS_VARIABLE
        raise InvalidRequest("--host", host, allowed)


def is_loopback(host: str) -> bool:
    """Whether a name or address leads to this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(str(one[4][0])).is_loopback for one in found)
