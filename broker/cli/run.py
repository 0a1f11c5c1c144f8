"""`gpubroker run -- CMD`: any command on borrowed memory of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click

from broker.cli.options import alternatives, broker_from, pool_options, request_options

if TYPE_CHECKING:
    from broker.lease import Lease

#: Passed on to the command. What the terminal sends (Ctrl-C, Ctrl-\) the command has had already.
_PASSED_ON = (
    signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT,
)  # fmt: skip
#: ``si_code`` of a signal that the kernel sent, as a terminal has it do: sigaction(2).
_SI_KERNEL = 0x80
#: A day: a command that waits for longer should say so.
_WAIT_SECONDS = 86_400.0
#: The command starts when it is told to, has this process's signals as they were before, and does not outlive it.
_SHIM = """
import ctypes, os, signal, sys
parent, gate, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != parent or not os.read(gate, 1):
    sys.exit(1)
os.close(gate)
signal.pthread_sigmask(signal.SIG_SETMASK, [])
try:
    os.execvp(command[0], command)
except OSError as error:
    print(f"gpubroker: {command[0]}: {error.strerror}", file=sys.stderr)
    sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
"""


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--memory", required=True, help="Such as 8GiB, 2x8GiB, or 16GiB,2x8GiB for the first there is room for.")
@click.option("--wait", default=_WAIT_SECONDS, show_default=True, help="Seconds to wait for room.")
@click.option("--ttl", default=30.0, show_default=True, help="Seconds until the lease ends unless renewed.")
@click.option("--grace", default=10.0, show_default=True, help="Seconds from SIGTERM to SIGKILL if the lease is lost.")
@click.option("--lease-id", help="Its name; the same name and request again take nothing twice.")
@request_options
@pool_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD [ARG]...")
def run(
    memory: str, wait: float, ttl: float, grace: float, lease_id: str | None, request: dict[str, Any],
    command: tuple[str, ...], redis_url: str, pool: str,
) -> NoReturn:  # fmt: skip
    """Run a command on memory of this machine's GPUs, borrowed for as long as it runs.

    It finds its cards in CUDA_VISIBLE_DEVICES and the caps of frameworks in its environment; PyTorch, TensorFlow and
    ONNX Runtime have none there, so a Python program calls worker_hooks.cap_frameworks(). Signals are passed on and
    its exit status is kept (128 and more: it was ended by that signal). If the lease is revoked or lost it is sent
    SIGTERM, and SIGKILL when the grace is over.
    """
    from broker.calls import this_host
    from broker.errors import InsufficientMemory

    broker, name = broker_from(redis_url, pool), lease_id or f"run-{os.urandom(8).hex()}"
    asked = request | {"host": request.get("host") or this_host(), "ttl": ttl, "lease_id": name}
    try:
        held = broker.acquire(alternatives(memory), wait=0, **asked)
    except InsufficientMemory:
        if not wait:
            raise
        click.echo(f"gpubroker: waiting for room; `gpubroker explain {name}` says why", err=True)
        held = broker.acquire(alternatives(memory), wait=wait, **asked)
    raise SystemExit(_Ward(held, grace).run(command))


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals wait until they are asked for."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Ward:
    """One command under one lease, until both are over."""

    def __init__(self, lease: Lease, grace: float) -> None:
        self._lease, self._grace = lease, grace
        self._kill_at: float | None = None

    def run(self, command: tuple[str, ...]) -> int:
        """Start the command behind the start gate, keep the lease, and return the status to end with."""
        from broker.errors import BrokerError
        from broker.lease import Renewer

        with _signals_held():
            renewer = Renewer(self._lease)
            try:
                process = self._start(command)
                status = self._watch(process)
            finally:
                renewer.stop()
                try:
                    self._lease.release()
                except BrokerError as error:
                    click.echo(f"gpubroker: {error}", err=True)
        return status if status >= 0 else 128 - status

    def _start(self, command: tuple[str, ...]) -> subprocess.Popen[bytes]:
        from broker.process import began

        behind, gate = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), str(behind), *command],
            env={**os.environ, **self._lease.env()}, pass_fds=(behind,),
        )  # fmt: skip
        os.close(behind)
        try:
            # law 9: the token is checked again, and the process told, before anything of the command runs.
            self._lease.started(process.pid, began(process.pid) or "")
            os.write(gate, b"!")
        finally:
            os.close(gate)
        return process

    def _watch(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for its end; pass signals on; end it if the lease is over."""
        while process.poll() is None:
            seen = signal.sigtimedwait({*_PASSED_ON, signal.SIGCHLD}, 1.0)
            if seen is not None and seen.si_signo != signal.SIGCHLD and seen.si_code != _SI_KERNEL:
                process.send_signal(seen.si_signo)
            self._end_if_over(process)
        return process.returncode

    def _end_if_over(self, process: subprocess.Popen[bytes]) -> None:
        lease = self._lease
        if self._kill_at is None and (lease.lost or lease.revoke_at is not None):
            why = f"revoked: {lease.revoke_reason or 'no reason was given'}" if lease.revoke_at else "lost"
            click.echo(f"gpubroker: lease {lease.id} was {why}; the command is asked to end", err=True)
            self._kill_at = time.monotonic() + self._grace
            process.terminate()
        elif self._kill_at is not None and time.monotonic() >= self._kill_at:
            process.kill()
