"""Every `redis-cli` command of the documentation, sent to a real server as it stands there."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from broker import Broker, calls
from broker.publish import Publisher
from tests.conftest import report
from tests.docs.pages import ROOT, blocks

KEYS_MD = "reference/keys.md"
LOOKS = [
    line
    for block in blocks(KEYS_MD, "sh")
    for line in block.commands
    if line.startswith("redis-cli ") and "--eval" not in line
]
CHANGES = [line for block in blocks(KEYS_MD, "sh") if "--eval" in block.text for line in block.commands]
#: Enough of redis-cli for a command, or for a script with keys and arguments, on the server of the test.
REDIS_CLI = """#!{python}
import os, sys, redis
client, words = redis.Redis.from_url(os.environ["GPUBROKER_REDIS_URL"], decode_responses=True), sys.argv[1:]
if words[0] == "--eval":
    cut = words.index(",")
    text = open(words[1]).read()
    print(client.eval(text, cut - 2, *words[2:cut], *words[cut + 1:]))
else:
    print(client.execute_command(*words))
"""
Fill = Callable[[str], str]


@pytest.fixture
def fill(broker: Broker) -> Fill:
    """A pool with a card, a lease on it and a waiter behind it; puts their names into a command."""
    Publisher(broker, "h1").publish([report("GPU-a", hardware={"margin_c": 20})], 600_000)
    broker.update_config(history_size=100)
    lease = broker.acquire("4GiB", lease_id="job-7", ttl=600)
    names = {"UUID": "GPU-a", "HOST": "h1", "WAITER": "job-8", "ID": "job-7", "TOKEN": str(lease.token)}

    def filled(line: str) -> str:
        for word, value in names.items():
            line = line.replace(f":{word}'", f":{value}'").replace(f" {word}", f" {value}")
        return line

    return filled


@pytest.fixture
def waiting(broker: Broker, fill: Fill) -> str:
    """A request that waits behind the lease."""
    request = calls.ask("4GiB", lease_id="job-8", wait=60, ttl=60)
    broker.call("acquire", *request.asking(True))
    return "job-8"


def test_there_are_recipes_for_every_question() -> None:
    assert len(LOOKS) >= 17


@pytest.mark.parametrize("line", LOOKS)
def test_a_look_finds_what_the_page_says(broker: Broker, fill: Fill, waiting: str, line: str) -> None:
    words = shlex.split(fill(line))[1:]
    if "BLOCK" in words:
        words[words.index("BLOCK") + 1] = "1"  # nothing happens here: it comes back with nothing
        assert not broker.redis.execute_command(*words)  # type: ignore[no-untyped-call]
        return
    found = broker.redis.execute_command(*words)  # type: ignore[no-untyped-call]
    assert found, words
    assert None not in found or "used_bytes" in words
    if words[0] == "HMGET" and "state" in words:
        assert found[:2] == ["OPTIMAL", "40"]
    if words[0] == "ZRANGE":
        assert any(name in str(found) for name in ("job-7", waiting))


def test_changes_by_the_scripts_do_what_the_page_says(broker: Broker, fill: Fill, tmp_path: Path) -> None:
    program = tmp_path / "redis-cli"
    program.write_text(REDIS_CLI.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "GPUBROKER_REDIS_URL": broker.url, "PYTHONPATH": str(ROOT)}
    text = "\n".join(["set -e", f'python() {{ {shlex.quote(sys.executable)} "$@"; }}', *map(fill, CHANGES)])
    after = broker.last_event_id()
    done = subprocess.run(
        ["bash", "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    kinds = [event.kind for event in broker.events(after)]
    assert kinds == ["drained", "undrained", "revoked", "released"]
    assert broker.leases() == []
