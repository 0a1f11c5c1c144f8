"""The budget of every operation: ``budget.toml``, which the guard holds against what is counted.

``python -m tests.bench.budget`` shows what differs; ``--write`` writes what is counted now into the file. A change that
raises a number says why in its commit message.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter as Tally
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.counts import Counted
from broker.embedded import EmbeddedServer
from tests.bench.operations import OPERATIONS, counted

FILE = Path(__file__).with_name("budget.toml")
REWRITE = "python -m tests.bench.budget --write"
_HEAD = f"""# What each operation may make the server do; `{REWRITE}` writes it anew.
# round_trips: how often a client asks and waits; sent: commands that clients send; inside: commands that scripts make;
# bytes_sent: of all that clients send (only where it hangs on nothing else than the operation).
"""
#: Whose length hangs on no process, host or job.
WITH_BYTES = frozenset({"acquire", "acquire, refused", "acquire, queued"})
#: Where RQ's own round trips cannot be told from ours.
_WITHOUT_TRIPS = frozenset({"an RQ job under a lease"})

Entry = Mapping[str, Any]


def entry(name: str, found: Counted) -> Entry:
    """What the file says of an operation."""
    told: dict[str, Any] = {} if name in _WITHOUT_TRIPS else {"round_trips": found.round_trips}
    told |= {"sent": len(found.sent), "inside": len(found.inside)}
    if name in WITH_BYTES:
        told["bytes_sent"] = found.bytes_sent
    return told | {"clients": list(found.sent), "scripts": list(found.inside)}


def read() -> dict[str, Entry]:
    """The file."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def written(entries: Mapping[str, Entry]) -> str:
    """The file's text; numbers and lists of words in TOML look as they do in JSON."""
    parts = [_HEAD]
    for name, told in entries.items():
        lines = [f"{key} = {_value(value)}" for key, value in told.items()]
        parts.append("\n".join([f"[{json.dumps(name)}]", *lines, ""]))
    return "\n".join(parts)


def _value(value: Any) -> str:
    if not isinstance(value, list):
        return json.dumps(value)
    rows, row = list[str](), ""
    for word in map(json.dumps, value):
        if row and len(row) + len(word) > 112:
            rows.append(row)
            row = ""
        row += f"{word}, "
    return "[\n" + "".join(f"  {one.rstrip()}\n" for one in [*rows, row] if one) + "]"


def wrongs(name: str, now: Entry, budget: Entry | None) -> list[str]:
    """In what an operation differs from its budget, in sentences."""
    if budget is None:
        return [f"{name} has no budget; {REWRITE}"]
    found = []
    words = {"round_trips": "round trips", "sent": "commands of clients", "inside": "calls inside scripts",
             "bytes_sent": "bytes"}  # fmt: skip
    for key, unit in words.items():
        seen, most = now.get(key), budget.get(key)
        if seen == most:
            continue
        if seen is None or most is None or seen < most:
            found.append(f"{name} makes {seen} {unit}, fewer than its budget of {most}: lower it, {REWRITE}")
        else:
            found.append(f"{name} makes {seen} {unit}, budget {most}")
    if found:
        more: dict[str, tuple[Tally[str], Tally[str]]] = {}
        for key in ("clients", "scripts"):
            seen, most = Tally[str](now[key]), Tally[str](budget[key])
            more[key] = seen - most, most - seen
        for key, (new, gone) in more.items():
            if new or gone:
                found.append(f"  {key}: new {_listed(new)}; gone {_listed(gone)}")
    return found


def _listed(words: Tally[str]) -> str:
    return ", ".join(f"{word} × {number}" if number > 1 else word for word, number in words.items()) or "none"


@click.command()
@click.option("--write", is_flag=True, help="Into the file.")
@click.option("--only", multiple=True, help="This operation; the others' budgets stay.")
def main(write: bool, only: tuple[str, ...]) -> None:
    """Count all operations."""
    before = read() if FILE.exists() else {}
    entries: dict[str, Entry] = {}
    with EmbeddedServer() as server:
        for name, prepare in OPERATIONS.items():
            if only and name not in only:
                if name in before:
                    entries[name] = before[name]
                continue
            entries[name] = entry(name, counted(server.url, prepare))
            of = "".join(f"{entries[name].get(key, '-'):>8}" for key in ("round_trips", "sent", "inside", "bytes_sent"))
            click.echo(f"{name:<28}{of}")
            for line in wrongs(name, entries[name], before.get(name)):
                click.echo(f"    {line}")
    if write:
        FILE.write_text(written(entries), encoding="utf-8")


if __name__ == "__main__":
    main()
