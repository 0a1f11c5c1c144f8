"""The code of the page on moving from a manager in one process, "after", is run as it stands there."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import pytest

from broker import get_broker
from broker.stack import Stack
from tests.docs.pages import blocks

AFTER = [block.text for block in blocks("how-to/migrate.md", "python", "after")]
BEFORE = [block.text for block in blocks("how-to/migrate.md", "python", "before")]


@pytest.fixture
def said(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What each block prints, run one after the other in one program."""
    monkeypatch.setenv("GPUBROKER_REDIS_URL", stack.url)
    get_broker.cache_clear()
    names: dict[str, object] = {"__name__": "after"}
    told = []
    for text in AFTER:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(text, "migrate.md", "exec"), names)
        told.append(out.getvalue())
    yield told
    get_broker().update_config(temp_optimal=None, temp_throttle=None)
    get_broker().update_config(get_broker().gpus()[0].uuid, memory_limit_mb=None)
    get_broker().close()
    get_broker.cache_clear()


def test_the_code_after_does_what_the_page_says(said: list[str], stack: Stack) -> None:
    memory, _, monitoring, throttling, callbacks, configuration = said
    uuids = [gpu.uuid for gpu in stack.broker.gpus()]
    assert any(f"working on {uuid} with {4 << 30} bytes" in memory for uuid in uuids)
    assert stack.broker.leases() == []
    assert monitoring.count("OPTIMAL") == 2
    assert all(f"{uuid} is at" in monitoring for uuid in uuids)
    assert throttling.startswith("OPTIMAL ")
    assert throttling.endswith(" 64\n")
    assert callbacks == ""
    assert configuration == "5500\n"


def test_each_block_after_stands_beside_one_before() -> None:
    assert len(BEFORE) == len(AFTER) - 1  # memory has a second way, as a job
    for text in BEFORE:
        compile(text, "migrate.md", "exec")
