"""A real cluster on loopback, of as many masters as are wanted, with a replica of the first if need be; nothing is
persisted."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from broker import lifeline
from broker.embedded import find_binary
from broker.ledger.keys import Keys

HOST, SLOTS = "127.0.0.1", 16384
_START_SECONDS, _STOP_SECONDS = 30.0, 5.0


class Node:
    """One server that owns a share of the slots, or none: a replica."""

    def __init__(self, folder: Path, slots: range, timeout_ms: int) -> None:
        """Start it; it may not answer yet."""
        self.port, self.bus, self.slots = _free_port(), _free_port(), slots
        options = {
            "port": self.port, "bind": HOST, "dir": folder, "save": "", "appendonly": "no", "daemonize": "no",
            "cluster-enabled": "yes", "cluster-port": self.bus, "cluster-config-file": f"nodes-{self.port}.conf",
            "cluster-node-timeout": timeout_ms, "repl-diskless-sync-delay": 0,
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with (folder / f"{self.port}.log").open("ab") as log:
            self.process: subprocess.Popen[bytes] = lifeline.spawn([str(find_binary()), *words], log)
        self.client = redis.Redis(host=HOST, port=self.port, retry=Retry(NoBackoff(), 0))

    def ask(self, *words: str | int) -> Any:
        """One CLUSTER command; text where it answers one."""
        reply = self.client.execute_command("CLUSTER", *words)  # type: ignore[no-untyped-call]
        return reply.decode() if isinstance(reply, bytes) else reply

    def answers(self) -> bool:
        """Whether it is up."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the server at {HOST}:{self.port} ended with {self.process.returncode}")
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def knows(self, nodes: int) -> bool:
        """Whether it sees a whole cluster of so many nodes."""
        told = self.ask("INFO")
        facts = (
            dict(told) if isinstance(told, dict) else dict(line.split(":", 1) for line in told.split() if ":" in line)
        )
        return facts["cluster_state"] == "ok" and int(facts["cluster_known_nodes"]) == nodes

    def follow(self, master: Node) -> None:
        """Become its replica; returns when in step with it."""
        self.ask("REPLICATE", master.ask("MYID"))

        def in_step() -> bool:
            told: dict[str, Any] = self.client.info("replication")
            return told.get("master_link_status") == "up"

        _until(in_step)

    def cpu_seconds(self) -> float:
        """Processor time that it has used."""
        told: dict[str, Any] = self.client.info("cpu")
        return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


class ClusterServers:
    """So many masters that share the slots; gone when it is left."""

    def __init__(self, masters: int, *, replica: bool = False, timeout_ms: int = 15_000) -> None:
        """Nothing runs yet. ``replica``: of the first master. After ``timeout_ms`` a silent node counts as gone."""
        self.wanted, self.replica, self.timeout_ms = masters, replica, timeout_ms
        self.masters: list[Node] = []
        self._others: list[Node] = []

    @property
    def url(self) -> str:
        """Any of them knows all."""
        return "redis+cluster://" + ",".join(f"{HOST}:{master.port}" for master in self.masters)

    def __enter__(self) -> Self:
        """Start them, share the slots out, and return when each sees a whole cluster."""
        self._folder = Path(tempfile.mkdtemp(prefix="gpubroker-cluster-"))
        try:
            for at in range(self.wanted):
                slots = range(at * SLOTS // self.wanted, (at + 1) * SLOTS // self.wanted)
                self.masters.append(Node(self._folder, slots, self.timeout_ms))
            if self.replica:
                self._others.append(Node(self._folder, range(0), self.timeout_ms))
            nodes = [*self.masters, *self._others]
            for at, master in enumerate(self.masters):
                _until(master.answers)
                master.ask("ADDSLOTSRANGE", master.slots[0], master.slots[-1])
                master.ask("SET-CONFIG-EPOCH", at + 1)
            for node in nodes[1:]:
                _until(node.answers)
                self.masters[0].ask("MEET", HOST, node.port, node.bus)
            _until(lambda: all(node.knows(len(nodes)) for node in nodes))
            for node in self._others:
                node.follow(self.masters[0])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop them."""
        nodes = [*self.masters, *self._others]
        for node in nodes:
            node.client.close()
        lifeline.end_all([node.process for node in nodes], _STOP_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def master_of(self, pool: str) -> Node:
        """Whose slot a pool is in."""
        slot = key_slot(Keys(pool).ledger.encode())
        return next(master for master in self.masters if slot in master.slots)

    def pools(self, count: int) -> list[str]:
        """So many names of pools, in turn one of each master's; the slot of a name decides where it lives."""
        found: dict[int, list[str]] = {master.port: [] for master in self.masters}
        each, number = -(-count // len(self.masters)), 0
        while min(map(len, found.values())) < each:
            name = f"site-{number}"
            found[self.master_of(name).port].append(name)
            number += 1
        return [names[at] for at in range(each) for names in found.values()][:count]


def _until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the cluster was not whole within {_START_SECONDS:g} s")
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
