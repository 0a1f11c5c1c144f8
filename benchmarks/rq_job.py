"""The job of ``benchmarks.rq``, in a module that imports nothing of ours: it costs a plain worker no import."""

from __future__ import annotations

import hashlib


def develop(rounds: int) -> None:
    """Keep one core busy for a fixed amount of work."""
    if rounds:
        hashlib.pbkdf2_hmac("sha256", b"photo", b"studio", rounds)
