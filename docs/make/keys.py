"""The keys of a pool, from ``broker.ledger.keys``: their names, types and meaning as they stand beside them."""

from __future__ import annotations

import inspect
import re

from broker.ledger import keys
from docs.make.markdown import code, table

_LINE = re.compile(r'^ {16}(?:f"\{root\}(?P<name>[a-z]+:?)"|root),  # (?P<what>.+)$', re.MULTILINE)


def page() -> str:
    """Every key, in the order in which scripts receive them."""
    return table(
        ("number", "key", "what"),
        [(str(at), code(name or "(the prefix itself)"), what) for at, (name, what) in enumerate(listed(), 1)],
    )


def listed() -> list[tuple[str, str]]:
    """Name below ``gpubroker:{POOL}:`` and what it holds.

    Raises:
        ValueError: a key has no word beside it.
    """
    found = [(line["name"] or "", line["what"]) for line in _LINE.finditer(inspect.getsource(keys))]
    names = [name.removeprefix(keys.Keys("pool").root) for name in keys.Keys("pool").all]
    if [name for name, _ in found] != names:
        raise ValueError("broker/ledger/keys.py has a key without a comment that says what it holds")
    return found
