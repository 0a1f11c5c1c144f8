"""Keeps what benchmarks wrote, for the results page: copies JSON and PNG into ``docs/results``.

``python -m benchmarks.keep [--from DIR] [--only NAME]...``
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

from benchmarks.frame import OUT

KEPT = Path(__file__).resolve().parents[1] / "docs" / "results"


@click.command()
@click.option("--from", "source", type=click.Path(exists=True, file_okay=False, path_type=Path), default=OUT,
              show_default=True, help="Where the benchmarks wrote.")  # fmt: skip
@click.option("--to", type=click.Path(file_okay=False, path_type=Path), default=KEPT, help="Where they are kept.")
@click.option("--only", multiple=True, help="This benchmark; repeatable.")
def main(source: Path, to: Path, only: tuple[str, ...]) -> None:
    """Copy, naming each."""
    to.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.json")):
        picture = path.with_suffix(".png")
        if (only and path.stem not in only) or not picture.exists():
            continue
        told = json.loads(path.read_text(encoding="utf-8"))
        met = sum(bool(goal["met"]) for goal in told["goals"])
        shutil.copy(path, to)
        shutil.copy(picture, to)
        load = told["machine"]["load_before"]
        click.echo(f"{path.stem}: {told['date']}, {met} of {len(told['goals'])} goals met, load {load}")


if __name__ == "__main__":
    main()
