"""Draws ``docs/demo.svg``: the demo's terminal in the middle of a run, and its last words.

Runs the real demo and keeps the live picture of a moment in which a card is throttled.
``python docs/make_picture.py [WHERE]``
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from gpubroker_photos import demo as demo_module
from gpubroker_photos.screen import LiveScreen, picture
from rich.console import Console, Group
from rich.text import Text

from broker.models import Gpu

WIDTH = 118


class KeepsOne(LiveScreen):
    """Draws nowhere, and keeps the latest picture with a throttled card in it, or else the latest."""

    kept: Group | None = None
    throttled = False

    def __init__(self) -> None:
        """Draw into nothing."""
        super().__init__(Console(file=io.StringIO(), width=WIDTH))

    def show(self, done: int, failed: int, total: int, gpus: Sequence[Gpu], waiting: int) -> None:
        """Keep it, if it is the better one."""
        throttled = any(gpu.state == "THROTTLED" for gpu in gpus) and waiting > 0
        if throttled or not self.throttled:
            self.throttled = self.throttled or throttled
            self.kept = picture(done, failed, total, gpus, waiting, self._news)


def main(where: Path) -> None:
    """Run the demo once and draw it."""
    screen = KeepsOne()
    demo_module.screen_for = lambda stream: screen
    words = io.StringIO()
    with contextlib.redirect_stdout(words):
        demo_module.demo.main(args=[], standalone_mode=False)
    last = words.getvalue().split("\nLook around")[0]
    # Where this machine keeps its temporary files is nobody's business.
    last = re.sub(r"\S*/gpubroker-demo-\w+", "/tmp/gpubroker-demo", last)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ make demo", style="bold"))
    if screen.kept is not None:
        console.print(screen.kept)
    console.print(Text(last.rstrip()))
    console.save_svg(str(where), title="gpubroker demo")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/demo.svg"))
