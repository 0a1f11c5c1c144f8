"""`python -m gpubroker_photos DIR --out DIR`: the whole pipeline over a folder, in this one process."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .files import PhotoError
from .process import PhotoResult, process_photo
from .report import contact_sheet, write_scores
from .source import find_photos, make_folder


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when every photo was done, 1 when some could not be, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m gpubroker_photos", description="Score and enhance photos.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the photos, also in folders below")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument("--make", type=int, metavar="COUNT", help="first fill DIR with that many sample photos")
    given = parser.parse_args(arguments)
    if given.out.resolve().is_relative_to(given.folder.resolve()):
        parser.error(f"--out {given.out} lies inside {given.folder}: the next run would take results for photos")
    try:
        if given.make is not None:
            make_folder(given.folder, given.make, _show("made"))
        photos = find_photos(given.folder)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    results = _process_all(photos, given.folder, given.out)
    if results:
        write_scores(results, given.out / "scores.csv")
        contact_sheet([Path(result.output) for result in results], given.out / "contact-sheet.jpg")
    return 0 if len(results) == len(photos) else 1


def _process_all(photos: list[Path], root: Path, out: Path) -> list[PhotoResult]:
    show = _show("done")
    started = time.perf_counter()
    results = []
    for number, path in enumerate(photos, start=1):
        try:
            results.append(process_photo(path, out / "photos", root=root, pace=lambda full: full))
        except PhotoError as error:
            print(f"\nskipped {error}", file=sys.stderr)
        show(number, len(photos))
    each_ms = 1000 * (time.perf_counter() - started) / len(photos)
    print(f"{len(results)} of {len(photos)} photos, {each_ms:.1f} ms each, in {out}")
    return results


def _show(word: str) -> Callable[[int, int], None]:
    """Progress on one line that rewrites itself, or, where output is no terminal, at every tenth of the way."""

    def show(done: int, total: int) -> None:
        if sys.stdout.isatty():
            print(f"\r{word} {done} of {total}", end="\n" if done == total else "", flush=True)
        elif done * 10 // total != (done - 1) * 10 // total:
            print(f"{word} {done} of {total}", flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
