"""Who asks, and what he may do: tokens with scopes, compared in constant time, changed without a restart."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from broker.errors import InvalidRequest
from broker.http.settings import TOKENS_VARIABLE, HttpSettings

log = logging.getLogger("gpubroker.http")

#: Seconds between two looks at the token file.
_LOOK_SECONDS = 1.0
_TOKEN = re.compile(rb"[\x21-\x7e\x80-\xff]{16,512}")
_LINE_ALLOWED = "SCOPE:TOKEN, the scope viewer, operator or admin, the token 16 to 512 signs without blanks"


class Scope(IntEnum):
    """What a caller may do: each may do all that the ones before may."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """As it is written in a token file."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``scope`` is ``None`` for one who showed no token that is known; ``key`` tells callers apart."""

    key: str
    scope: Scope | None
    authenticated: bool = False


class Tokens:
    """The tokens that are good now, from a file (read again when it changes) and from the environment."""

    def __init__(self, settings: HttpSettings) -> None:
        """Read them.

        Raises:
            InvalidRequest: a line is none, the file cannot be read, or holds no token.
        """
        self.open = settings.open
        self._file = settings.token_file
        self._given = parse_tokens(re.split(rb"[\s,]+", settings.tokens.encode()), TOKENS_VARIABLE)
        self._stamp: tuple[int, ...] | None = None
        self._looked = time.monotonic()
        self._known = dict(self._given)
        if self._file is not None:
            self._stamp, self._known = _stamp(self._file), self._given | _read(self._file)
        if not self.open and not self._known:
            raise InvalidRequest("--token-file", str(self._file), f"a file with a token at least: {_LINE_ALLOWED}")

    def caller(self, peer: str, authorization: bytes | None) -> Caller:
        """Who asks, from ``peer``, with that header. Whether a token is known is not told by the time it takes."""
        if self.open:
            return Caller(peer, Scope.ADMIN)
        self._look_again()
        scheme, _, token = (authorization or b"").partition(b" ")
        shown = _digest(token.strip())
        scope: Scope | None = None
        for known, its_scope in self._known.items():
            if hmac.compare_digest(known, shown):
                scope = its_scope
        if scheme.lower() != b"bearer" or scope is None:
            return Caller(peer, None)
        return Caller(_key(shown), scope, authenticated=True)

    def still_good(self, caller: Caller) -> bool:
        """Whether one who came in would come in now: a token that was taken away ends what it began."""
        self._look_again()
        return self.open or any(_key(known) == caller.key for known in self._known)

    def _look_again(self) -> None:
        if self._file is None or time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._known = self._given | _read(self._file)
            log.info("event=tokens_read count=%d", len(self._known))
        except InvalidRequest as error:
            # A token that was to be taken away must not live on because of a slip of the pen.
            self._known = {}
            log.error("event=tokens_refused error=%r", str(error))


def parse_tokens(lines: Iterable[bytes], where: str) -> dict[bytes, Scope]:
    """Digests of tokens with their scopes; empty lines and those that begin with ``#`` say nothing.

    Raises:
        InvalidRequest: a line is none. It is named by its number, as its text may be a secret.
    """
    found: dict[bytes, Scope] = {}
    for number, raw in enumerate(lines, start=1):
        line = raw.strip()
        if not line or line.startswith(b"#"):
            continue
        word, colon, token = line.partition(b":")
        scope = next((one for one in Scope if one.word.encode() == word), None)
        if not colon or scope is None or not _TOKEN.fullmatch(token):
            raise InvalidRequest(where, f"line {number}", _LINE_ALLOWED)
        found[_digest(token)] = scope
    return found


def _digest(token: bytes) -> bytes:
    """Of one length, so that comparing tells nothing about a token's."""
    return hashlib.sha256(token).digest()


def _key(digest: bytes) -> str:
    return f"token {digest.hex()[:32]}"


def _read(path: Path) -> dict[bytes, Scope]:
    try:
        found = parse_tokens(path.read_bytes().splitlines(), str(path))
    except OSError as error:
        raise InvalidRequest("--token-file", str(path), f"a file that can be read: {error.strerror}") from None
    if not found:
        raise InvalidRequest("--token-file", str(path), f"a file with a token at least: {_LINE_ALLOWED}")
    return found


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size, told.st_ino
