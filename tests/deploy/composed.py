"""docker-compose.yml as Docker Compose reads it, and its services as processes of this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from broker.embedded import find_binary

ROOT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?:(?P<how>:-|:\?)(?P<rest>[^}]*))?\})", re.ASCII)


class Missing(Exception):
    """A variable that must be set is not."""


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """``${NAME}``, ``${NAME:-default}``, ``${NAME:?message}`` and ``$$``, as Compose's specification has them."""

    def put(found: re.Match[str]) -> str:
        if found["escaped"]:
            return "$"
        value = values.get(found["name"], "")
        if not value and found["how"] == ":?":
            raise Missing(f"{found['name']}: {found['rest']}")
        return value or (found["rest"] if found["how"] == ":-" else "") or ""

    return _VARIABLE.sub(put, text)


def _filled(node: Any, values: Mapping[str, str]) -> Any:
    if isinstance(node, str):
        return interpolated(node, values)
    if isinstance(node, list):
        return [_filled(one, values) for one in node]
    if isinstance(node, dict):
        return {name: _filled(one, values) for name, one in node.items()}
    return node


def compose(values: Mapping[str, str], file: str = "docker-compose.yml") -> dict[str, Any]:
    """The file with its variables put in."""
    return _filled(yaml.safe_load((ROOT / file).read_text()), values)  # type: ignore[no-any-return]


def env_file(path: Path) -> dict[str, str]:
    """NAME=VALUE lines."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def as_process(service: Mapping[str, Any], swaps: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """A service's words and environment, where its programs, addresses and folders are this machine's (``swaps``)."""
    words = [*service.get("entrypoint", []), *service.get("command", [])]
    if service["image"] == "gpubroker" and "entrypoint" not in service:
        words = ["gpubroker", *words]
    environment = {name: str(value) for name, value in service.get("environment", {}).items()}
    return [_swapped(word, swaps) for word in words], {name: _swapped(v, swaps) for name, v in environment.items()}


def _swapped(text: str, swaps: Mapping[str, str]) -> str:
    for there, here in swaps.items():
        text = text.replace(there, here)
    return text


def programs(folder: Path) -> str:
    """A PATH on which `gpubroker` and the server are found, as in the images."""
    folder.mkdir()
    command = folder / "gpubroker"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m broker.cli "$@"\n')
    command.chmod(0o755)
    (folder / "valkey-server").symlink_to(find_binary())
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def has_compose() -> bool:
    """Whether the client of this machine has `docker compose`."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
