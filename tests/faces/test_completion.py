"""A shell completes verbs, options and the names of what is in the ledger."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from broker import Broker
from broker.cli import main

Cli = Callable[..., Result]
Cards = Callable[..., None]


@pytest.fixture
def complete(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What a shell offers after these words; the last is begun only."""
    monkeypatch.setenv("GPUBROKER_REDIS_URL", redis_url)

    def offered(*words: str) -> list[str]:
        kind = ShellComplete(main, {}, "gpubroker", "_GPUBROKER_COMPLETE")
        return [item.value for item in kind.get_completions(list(words[:-1]), words[-1])]

    return offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_told_how(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_GPUBROKER_COMPLETE={shell}_complete" in result.stdout


def test_another_shell_is_wrong_usage() -> None:
    assert CliRunner().invoke(main, ["completion", "tcsh"]).exit_code == 2


def test_verbs_and_options_are_completed(complete: Callable[..., list[str]]) -> None:
    assert complete("dr") == ["drain"]
    assert "--json" in complete("status", "--")


def test_verbs_are_completed_without_importing_any() -> None:
    code = (
        "import sys; from broker.cli import main; from click.shell_completion import ShellComplete; "
        "print(*[one.value for one in ShellComplete(main, {}, 'g', '_G').get_completions([], '')]); print(*sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    verbs, modules = told.splitlines()
    assert {"status", "drain", "agent", "worker", "demo"} <= set(verbs.split())
    assert not {"numpy", "rq", "redis", "pydantic", "textual", "rich"} & set(modules.split())


def test_names_come_from_the_ledger(complete: Callable[..., list[str]], broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b", host="studio-a")
    broker.acquire("1GiB", lease_id="job-7", tenant="paul")
    assert complete("drain", "GPU-") == ["GPU-a", "GPU-b"]
    assert complete("drain", "--host", "st") == ["studio-a"]
    assert complete("revoke", "") == ["job-7"]
    assert complete("acquire", "1GiB", "--tenant", "p") == ["paul"]
    assert complete("config", "get", "--gpu", "GPU-b") == ["GPU-b"]
    assert complete("--", "drain", "--pool", "other", "GPU-") == []


def test_what_is_no_name_is_not_offered(complete: Callable[..., list[str]], broker: Broker) -> None:
    broker.redis.sadd(broker.keys.hosts, "h1", "$(touch x)", "h2\n--all", "\x1b[2J")
    assert complete("drain", "--host", "") == ["h1"]
    broker.redis.delete(broker.keys.hosts)


def test_without_a_ledger_nothing_is_offered(
    complete: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBROKER_REDIS_URL", "redis://127.0.0.1:1/0")
    assert complete("drain", "GPU-") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_a_uuid(redis_url: str, cards: Cards, tmp_path: Path) -> None:
    cards("GPU-a", "GPU-b")
    script = (
        f'eval "$({sys.executable} -m broker.cli completion bash)"; complete -p gpubroker; '
        'COMP_WORDS=(gpubroker drain GPU-a); COMP_CWORD=2; _gpubroker_completion "$0"; echo "${COMPREPLY[@]}"'
    )
    command = tmp_path / "gpubroker"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m broker.cli "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    told = subprocess.run(
        ["bash", "-c", script, str(command)], env={**os.environ, "GPUBROKER_REDIS_URL": redis_url},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert told.stdout.splitlines() == ["complete -o nosort -F _gpubroker_completion gpubroker", "GPU-a"]
