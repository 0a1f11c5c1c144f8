"""`gpubroker run -- CMD`: the command as it would be without us, but for the memory that it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import Broker
from broker.models import Event
from broker.units import GIB, MIB
from tests.faces.conftest import alive
from tests.rq import fakes

Run = Callable[..., "subprocess.Popen[str]"]
#: Says its pid and its card, then waits; ends by SIGTERM with 7.
_COMMAND = (
    "import os, signal, sys; signal.signal(signal.SIGTERM, lambda *_: os._exit(7));"
    " print(os.getpid(), os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"
)


@pytest.fixture
def run(command: list[str], redis_url: str, cards: Callable[..., None]) -> Iterator[Run]:
    """Starts `gpubroker run` on a machine with a card of 6 GiB."""
    cards("GPU-a", host="here")
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, memory: str = "1GiB") -> subprocess.Popen[str]:
        environment = {**os.environ, "GPUBROKER_REDIS_URL": redis_url, "GPUBROKER_HOST": "here"}
        started.append(
            subprocess.Popen(
                [*command, "run", "--memory", memory, *words],
                stdin=-1,
                stdout=-1,
                stderr=-1,
                text=True,
                env=environment,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def python(code: str) -> tuple[str, ...]:
    return "--", sys.executable, "-c", code


def first_line(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


@pytest.mark.parametrize(("code", "status"), [
    ("pass", 0), ("raise SystemExit(42)", 42), ("import os; os.kill(os.getpid(), 9)", 137),
])  # fmt: skip
def test_the_exit_status_is_the_commands(run: Run, broker: Broker, code: str, status: int) -> None:
    assert run(*python(code)).wait(timeout=30) == status
    assert broker.leases() == []


def test_the_command_has_its_card_its_input_and_its_lease(run: Run, broker: Broker) -> None:
    process = run("--lease-id", "mine", *python("import os; print(input(), os.environ['CUDA_VISIBLE_DEVICES'])"))
    out, err = process.communicate("hello\n", timeout=30)
    assert (out, err) == ("hello GPU-a\n", "")
    started = [event.fields for event in broker.events() if event.kind == "granted"]
    assert started[0]["id"] == "mine"


def test_the_command_has_its_caps_and_a_python_program_may_ask_for_the_rest(run: Run, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(fakes.TORCH)
    code = f"""import os, sys; sys.path.insert(0, {str(tmp_path)!r})
from worker_hooks import cap_frameworks
cap_frameworks()
import torch
torch.cuda.start(); print(os.environ["CUPY_GPU_MEMORY_LIMIT"], os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"])
print(torch.cuda.fractions[0] * (8 << 30))"""
    out, err = run(*python(code), memory="3GiB").communicate(timeout=30)
    cap = 3 * GIB - 500 * MIB
    assert (out.split(), err) == ([str(cap), f"{int(cap / (6 * GIB) * 1e6) / 1e6:.6f}", str(float(cap))], "")


def test_the_lease_names_the_commands_process(run: Run, broker: Broker) -> None:
    process = run(*python(_COMMAND))
    pid, card = first_line(process)
    (lease,) = broker.leases()
    assert (lease.pid, lease.gpu_uuids, card) == (int(pid), "GPU-a", "GPU-a")
    assert lease.pid_started
    process.communicate("", timeout=30)


def test_signals_are_passed_on(run: Run, broker: Broker) -> None:
    process = run(*python(_COMMAND))
    first_line(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 7
    assert broker.leases() == []


def test_the_command_does_not_outlive_us(run: Run) -> None:
    process = run(*python(_COMMAND))
    pid = int(first_line(process)[0])
    process.kill()
    process.wait()
    while alive(pid):
        pass


def test_a_revoked_lease_ends_the_command(run: Run, broker: Broker) -> None:
    process = run("--ttl", "1", *python(_COMMAND))
    first_line(process)
    (lease,) = broker.leases()
    broker.revoke(lease.id, grace=60, reason="maintenance")
    assert process.wait(timeout=30) == 7
    assert "was revoked: maintenance" in process.communicate()[1]


def test_a_command_that_does_not_hear_is_killed_after_the_grace(run: Run, broker: Broker) -> None:
    code = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); import sys; sys.stdin.read()"
    process = run("--ttl", "1", "--grace", "0.5", *python(code))
    first_line(process)
    broker.revoke(broker.leases()[0].id, grace=60)
    assert process.wait(timeout=30) == 137


def test_without_room_nothing_starts(run: Run, tmp_path: Path) -> None:
    mark = tmp_path / "started"
    process = run(
        "--wait",
        "0",
        "--",
        "touch",
        str(mark),
        memory="5GiB",
    )
    assert process.wait(timeout=30) == 0
    mark.unlink()
    holder = run(*python(_COMMAND), memory="5GiB")
    first_line(holder)
    process = run("--wait", "0", "--", "touch", str(mark), memory="5GiB")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "5.0 GiB" in err
    assert not mark.exists()


def test_it_waits_for_room(run: Run, broker: Broker) -> None:
    holder = run(*python(_COMMAND), memory="5GiB")
    first_line(holder)
    process = run(*python("print('at last')"), memory="5GiB")
    queued = next(event for event in broker.follow("0", block_ms=200) if event and event.kind == "queued")
    assert isinstance(queued, Event)
    holder.communicate("", timeout=30)
    out, err = process.communicate(timeout=30)
    assert out == "at last\n"
    assert f"`gpubroker explain {queued.fields['id']}` says why" in err


@pytest.mark.parametrize(("words", "status"), [(("--", "no-such-command"), 127), (("--", "/etc/passwd"), 126)])
def test_a_command_that_cannot_run_is_told_as_a_shell_does(run: Run, words: tuple[str, ...], status: int) -> None:
    process = run(*words)
    _, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert words[1] in err


def test_a_command_has_its_own_options(run: Run) -> None:
    assert run("--", "echo", "--memory", "-x").communicate(timeout=30)[0] == "--memory -x\n"
