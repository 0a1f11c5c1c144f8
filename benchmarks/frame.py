"""What all benchmarks have in common: their options, their table, their JSON, their picture.

A benchmark is a module with a command ``main`` that ends in ``run.tell(found, draw)``. It says its method in its
docstring, is quick by default and long with ``--long``, compares within one run (medians and ratios, since the
machine's speed is not the project's), prints tables, and writes ``NAME.json`` and ``NAME.png`` into ``--out``.
``docs/results.md`` is made from such files.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Command = TypeVar("Command", bound=Callable[..., Any])
Cell = str | float | int | None
OUT = Path("build/bench")


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that was seen beside the one that is aimed at: ``most`` or ``least``."""

    name: str
    seen: float
    most: float | None = None
    least: float | None = None
    #: Why it is missed, where it is known.
    why: str = ""

    def __post_init__(self) -> None:
        """Check that there is an aim.

        Raises:
            ValueError: there is none.
        """
        if self.most is None and self.least is None:
            raise ValueError(f"{self.name}: say the most or the least that it should be")

    @property
    def met(self) -> bool:
        """Whether the figure is where it should be; one that is no number is not."""
        return (self.most is None or self.seen <= self.most) and (self.least is None or self.seen >= self.least)

    @property
    def aim(self) -> str:
        """The aim, in signs."""
        bounds = (("≥", self.least), ("≤", self.most))
        return ", ".join(f"{sign} {shown(bound)}" for sign, bound in bounds if bound is not None)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one kind. ``None`` is a cell with nothing to say; floats are shown with three digits that count."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    #: What has to be known to read it, in a sentence or two.
    note: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What one benchmark found. ``raw`` holds what its picture is drawn from."""

    name: str
    title: str
    method: str
    tables: list[Table]
    goals: list[Goal] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)


def shown(cell: Cell) -> str:
    """A cell as text: ``1,234``, ``12.3``, ``0.0123``."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if not math.isfinite(cell):
        return "none"
    if isinstance(cell, int) or abs(cell) >= 1000:
        return f"{cell:,.0f}"
    return f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"


def machine() -> dict[str, Any]:
    """The machine that the figures are from, in words that say nothing of whose it is."""
    cpu = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {
        "cores": os.cpu_count(), "cpu": cpu, "system": platform.system(), "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }  # fmt: skip


class Run:
    """One run: where it writes, whether it is a long one, and what it tells at its end."""

    def __init__(self, out: Path, as_json: bool, long: bool) -> None:
        self.out, self.as_json, self.long = out, as_json, long
        self.machine, self._begun = machine(), time.monotonic()

    def progress(self) -> Progress:
        """A bar on a terminal, nothing elsewhere."""
        return Progress(transient=True, disable=self.as_json or not sys.stderr.isatty())

    def tell(
        self, found: Found, draw: Callable[[Found, Figure], None], size: tuple[float, float] = (9, 5)
    ) -> dict[str, Any]:
        """Write JSON and PNG (of that size in inches), and print the tables, or the JSON. Returns what was written."""
        self.out.mkdir(parents=True, exist_ok=True)
        took = time.monotonic() - self._begun
        written: dict[str, Any] = _sound({
            **asdict(found),
            "goals": [{**asdict(goal), "met": goal.met, "aim": goal.aim} for goal in found.goals],
            "machine": self.machine,
            "date": time.strftime("%Y-%m-%d"),
            "took_seconds": round(took, 1),
            "long": self.long,
        })  # fmt: skip
        path, picture = self.out / f"{found.name}.json", self.out / f"{found.name}.png"
        path.write_text(dumped(written) + "\n", encoding="utf-8")
        _draw(found, draw, picture, size)
        if self.as_json:
            click.echo(json.dumps(written, ensure_ascii=False))
        else:
            _print(found)
            click.echo(f"\n{path}, {picture}; {took:.0f} s")
        return written


def _print(found: Found) -> None:
    for table in found.tables:
        click.echo(f"\n{table.title}\n{columns(table)}")
        if table.note:
            click.echo(table.note)
    if found.goals:
        click.echo("")
    for goal in found.goals:
        why = f" ({goal.why})" if goal.why and not goal.met else ""
        click.echo(f"{goal.name}: {shown(goal.seen)}, aim {goal.aim}: {'met' if goal.met else 'missed'}{why}")


def dumped(written: Any, depth: int = 3) -> str:
    """JSON for people and for version control: so deep a line each, what lies deeper on one line."""

    def text(value: Any, left: int, indent: str) -> str:
        if left == 0 or not value or not isinstance(value, dict | list):
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        inner, more = indent + " ", left - 1
        if isinstance(value, dict):
            lines = [f"{json.dumps(key, ensure_ascii=False)}: {text(one, more, inner)}" for key, one in value.items()]
            return f"{{\n{inner}" + f",\n{inner}".join(lines) + f"\n{indent}}}"
        return f"[\n{inner}" + f",\n{inner}".join(text(one, more, inner) for one in value) + f"\n{indent}]"

    return text(written, depth, "")


def _sound(value: Any) -> Any:
    """As JSON has it: numbers that are none, such as the mean of nothing, become ``null``; keys become texts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _sound(one) for key, one in value.items()}
    return [_sound(one) for one in value] if isinstance(value, list | tuple) else value


def columns(table: Table) -> str:
    """A table as lines of aligned text: the first column to the left, the others to the right."""
    rows = [table.columns, *[[shown(cell) for cell in row] for row in table.rows]]
    widths = [max(len(row[at]) for row in rows) for at in range(len(table.columns))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if at == 0 else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _draw(found: Found, draw: Callable[[Found, Figure], None], path: Path, size: tuple[float, float]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=size, layout="constrained")
    draw(found, figure)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def options(command: Command) -> Command:
    """The options that all have; the command is given a ``run``."""

    def with_run(*, out: Path, as_json: bool, long: bool, **more: Any) -> Any:
        return command(run=Run(out, as_json, long), **more)

    with_run.__doc__ = command.__doc__
    with_run.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option("--long", is_flag=True, help="More of everything: minutes instead of seconds."),
        click.option("--json", "as_json", is_flag=True, help="Print the JSON instead of the tables."),
        click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=OUT, show_default=True,
                     help="Where NAME.json and NAME.png go."),
    ):  # fmt: skip
        with_run = option(with_run)
    return with_run  # type: ignore[return-value]
