"""npm's ``redis-semaphore``: installed into ``build/`` when it is first needed, and driven by ``semaphore.mjs``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.peer.far import ROOT, Far

FOLDER = ROOT / "build" / "peers"
PACKAGES = ("redis-semaphore@5", "ioredis@5")
_INSTALL_SECONDS = 90.0


def missing() -> str:
    """Why it cannot be run here; empty if it can, and then it is installed."""
    if (FOLDER / "node_modules" / "redis-semaphore").is_dir():
        return "" if shutil.which("node") else "not installed: there is no node"
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return "not installed: there is no node and npm"
    FOLDER.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--prefix", str(FOLDER), "--no-audit", "--no-fund", "--loglevel=error", *PACKAGES]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"not installed: npm had not done it in {_INSTALL_SECONDS:.0f} s"
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()
        return f"not installed: {words[0] if words else 'npm failed'}"
    return ""


def started(url: str) -> Far:
    """One client in a process of Node's."""
    return Far(["node", str(Path(__file__).with_suffix(".mjs")), str(FOLDER / "node_modules"), url])
