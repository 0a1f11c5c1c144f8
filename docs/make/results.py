"""What the benchmarks found, from the JSON and pictures in ``docs/results`` (``make bench-keep`` puts them there)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.all import ALL
from benchmarks.frame import shown
from docs.make.markdown import docstring, table

FOLDER = Path(__file__).parents[1] / "results"
_NONE = "No results are kept here: `make bench` measures, and `make bench-keep` puts what it found here.\n"
_ORDER = {bench.name: at for at, bench in enumerate(ALL)}


def page() -> str:
    """All of it."""
    return made(FOLDER)


def made(folder: Path) -> str:
    """An overview of all goals, then each benchmark: its method, goals, tables and picture."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    found.sort(key=lambda one: (_ORDER.get(one["name"], len(_ORDER)), one["name"]))
    if not found:
        return _NONE
    return "\n".join([_overview(found), *(_section(one, folder) for one in found)])


def _overview(found: Sequence[dict[str, Any]]) -> str:
    rows = []
    for one in found:
        met = sum(bool(goal["met"]) for goal in one["goals"])
        goals = f"{met} of {len(one['goals'])}" if one["goals"] else ""
        missed = "; ".join(f"{goal['name']}: {_cell(goal['seen'])}" for goal in one["goals"] if not goal["met"])
        rows.append((f"[{one['title']}](#{one['name']})", goals, missed, one["date"]))
    return "## All of them\n\n" + table(("benchmark", "goals met", "missed", "date"), rows)


def _section(one: dict[str, Any], folder: Path) -> str:
    name = one["name"]
    parts = [f"## {one['title']} {{#{name}}}", _seen_on(one)]
    if one["goals"]:
        goals = [
            (goal["name"], _cell(goal["seen"]), goal["aim"],
             "met" if goal["met"] else "**missed**" + (f": {goal['why']}" if goal["why"] else ""))
            for goal in one["goals"]
        ]  # fmt: skip
        parts.append(table(("figure", "seen", "aim", ""), goals))
    if (folder / f"{name}.png").exists():
        parts.append(f"![{one['title']}](results/{name}.png)")
    for told in one["tables"]:
        rows = [[_cell(cell) for cell in row] for row in told["rows"]]
        parts.append(f"**{told['title']}**\n\n{table(told['columns'], rows)}")
        if told["note"]:
            parts.append(told["note"])
    heading = f"### How it was measured {{#{name}-method}}"
    parts += [heading, docstring(_flush(one["method"]))]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _cell(value: Any) -> str:
    return "none" if value is None else shown(value)


def _flush(method: str) -> str:
    """A docstring without its indentation, and without the line that says how to call it."""
    lines = [line for line in method.strip().splitlines() if not line.strip().startswith("``python -m ")]
    return "\n".join(lines)


def _seen_on(one: dict[str, Any]) -> str:
    machine = one["machine"]
    how = ", the long run" if one["long"] else ""
    return (
        f"`python -m benchmarks.{one['name']}`, {one['date']}, {one['took_seconds']:.0f} s{how}. Seen on"
        f" {machine['cores']} cores ({machine['cpu']}), {machine['system']}, Python {machine['python']};"
        f" load before it {machine['load_before']:g}. [Raw figures](results/{one['name']}.json)."
    )
