"""Real deployments on loopback: single servers, a cluster, a primary with replicas and Sentinels, a front for TLS.

Every child dies with the tests, however they end.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from broker import lifeline
from broker.embedded import find_binary
from broker.ledger.keys import Keys

HOST = "127.0.0.1"
SLOTS = 16384


def until(happened: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """Ask again and again until the answer is true; that answer."""
    deadline = time.monotonic() + seconds
    while not (answer := happened()):
        assert time.monotonic() < deadline, f"within {seconds:g} s there was not: {what}"
        time.sleep(0.01)
    return answer


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def slot_of(pool: str) -> int:
    """The cluster slot in which all keys of a pool live."""
    return int(key_slot(Keys(pool).ledger.encode()))


class Server:
    """One process of the server's program, with any configuration."""

    def __init__(
        self,
        options: Mapping[str, str | int] | None = None,
        *,
        sentinel: str = "",
        environment: Mapping[str, str] | None = None,
        user: tuple[str, str] | None = None,
    ) -> None:
        """``sentinel``: the configuration that makes it a Sentinel. ``user``: who asks whether it is up."""
        self.folder = Path(tempfile.mkdtemp(prefix="gpubroker-deploy-"))
        self.port = free_port()
        self.environment = None if environment is None else {**os.environ, **environment}
        self._options = dict(options or {})
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None
        name, password = user or (None, None)
        self.client: redis.Redis = redis.Redis(
            host=HOST, port=self.port, decode_responses=True, username=name, password=password,
            socket_timeout=5, retry=Retry(NoBackoff(), 0),
        )  # fmt: skip

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """As a single server."""
        return f"redis://{self.address}/0"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process was started and not stopped."""
        return self._process is not None

    def start(self) -> Self:
        """Start it, with what it kept; returns when it answers."""
        options = {
            "port": self.port, "bind": HOST, "dir": self.folder, "save": "", "appendonly": "no", "daemonize": "no",
            "maxmemory-policy": "noeviction", "repl-diskless-sync-delay": 0,
        }  # fmt: skip
        command = [str(find_binary())]
        if self._sentinel:
            file = self.folder / "sentinel.conf"
            file.write_text(f"port {self.port}\nbind {HOST}\ndir {self.folder}\n{self._sentinel}")
            command += [str(file), "--sentinel"]
        else:
            command += [
                word for name, value in {**options, **self._options}.items() for word in (f"--{name}", str(value))
            ]
        with (self.folder / "log").open("ab") as log:
            self._process = lifeline.spawn(command, log, environment=self.environment)
        until(self._answers, f"an answer of {' '.join(command)}: {self.folder}/log")
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def stop(self) -> None:
        """SIGKILL: nothing is said to anybody."""
        self.client.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: it takes connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def info(self, section: str) -> dict[str, Any]:
        """What ``INFO`` tells; nothing while it does not answer."""
        with suppress(redis.RedisError):
            return dict(self.client.info(section))  # type: ignore[arg-type]
        return {}

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop it and remove what it wrote."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Cluster:
    """Three primaries that share the slots; made with CLUSTER commands only."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self.nodes = [
            Server({
                "cluster-enabled": "yes", "cluster-port": free_port(), "cluster-node-timeout": 5000,
                "cluster-config-file": "nodes.conf",
            })
            for _ in range(3)
        ]  # fmt: skip

    @property
    def url(self) -> str:
        """Any node knows all."""
        return "redis+cluster://" + ",".join(node.address for node in self.nodes)

    def __enter__(self) -> Self:
        """Start the nodes, share the slots out, let them meet; returns when every node sees a whole cluster."""
        for number, node in enumerate(self.nodes):
            node.start()
            share = [number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1]
            self.cluster(node, "ADDSLOTSRANGE", *share)
            self.cluster(node, "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.cluster(self.nodes[0], "MEET", HOST, node.port, node._options["cluster-port"])
        until(lambda: all(map(self._whole, self.nodes)), "a whole cluster")
        return self

    def _whole(self, node: Server) -> bool:
        told = self.cluster(node, "INFO")
        return "cluster_state:ok" in told and "cluster_slots_ok:16384" in told and "cluster_known_nodes:3" in told

    def __exit__(self, *_: object) -> None:
        """End all."""
        for node in self.nodes:
            node.__exit__()

    def cluster(self, node: Server, *words: str | int) -> Any:
        """One CLUSTER command on one node, its raw reply."""
        with redis.Redis.from_pool(node.client.connection_pool.__class__(host=HOST, port=node.port)) as raw:
            reply = raw.execute_command("CLUSTER", *words)
        return reply.decode() if isinstance(reply, bytes) else reply

    def owner(self, slot: int) -> Server:
        """Who serves a slot, as all nodes agree."""

        def agreed() -> Server | None:
            found = set()
            for node in self.nodes:
                for first, last, primary, *_ in self.cluster(node, "SLOTS"):
                    if first <= slot <= last:
                        found.add(int(primary[1]))
            return next((node for node in self.nodes if found == {node.port}), None)

        return until(agreed, f"one owner of slot {slot}")  # type: ignore[no-any-return]

    def name(self, node: Server) -> str:
        """A node's id."""
        return str(self.cluster(node, "MYID"))

    def move(self, slot: int, target: Server, between: Callable[[str], None] = lambda _: None) -> None:
        """Move a slot key by key, as ``redis-cli --cluster reshard`` does; ``between`` is told each step."""
        source = self.owner(slot)
        self.cluster(target, "SETSLOT", slot, "IMPORTING", self.name(source))
        self.cluster(source, "SETSLOT", slot, "MIGRATING", self.name(target))
        between("begun")
        while keys := self.cluster(source, "GETKEYSINSLOT", slot, 10):
            source.client.execute_command("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
            between("moving")
        between("moved")
        for node in (target, source, *(node for node in self.nodes if node not in (source, target))):
            self.cluster(node, "SETSLOT", slot, "NODE", self.name(target))
        assert self.owner(slot) is target


def _facts(told: Any) -> dict[str, str]:
    """Names and values, whichever protocol told them."""
    return dict(told if isinstance(told, dict) else zip(told[::2], told[1::2], strict=True))


class Sentinels:
    """A primary with two replicas, watched by three Sentinels that act within a second or two."""

    service = "ledger"

    def __init__(self) -> None:
        """Nothing runs yet."""
        self.servers = [Server() for _ in range(3)]
        watch = f"sentinel monitor {self.service} {HOST} {self.servers[0].port} 2\n" + "".join(
            f"sentinel {name} {self.service} {value}\n"
            for name, value in {"down-after-milliseconds": 700, "failover-timeout": 3000, "parallel-syncs": 2}.items()
        )
        self.sentinels = [Server(sentinel=watch) for _ in range(3)]

    @property
    def url(self) -> str:
        """Any Sentinel knows the primary."""
        return f"redis+sentinel://{','.join(server.address for server in self.sentinels)}/{self.service}"

    def __enter__(self) -> Self:
        """Start all; returns when every Sentinel knows both replicas and both other Sentinels."""
        for server in self.servers:
            server.start()
        self._follow(self.servers[0])
        for server in self.sentinels:
            server.start()
            for period in ("info-period", "ping-period", "publish-period", "ask-period"):
                server.client.execute_command("SENTINEL", "DEBUG", period, 200)
        until(lambda: all(map(self._settled, self.sentinels)), "Sentinels that know each other")
        return self

    def heal(self) -> None:
        """All servers run, two follow the primary, and nothing is written; the Sentinels know it."""
        for server in self.servers:
            if not server.running:
                server.start()
        primary = self.primary
        self._follow(primary)
        for server in self.sentinels:
            server.client.execute_command("SENTINEL", "RESET", self.service)
        until(lambda: all(map(self._settled, self.sentinels)), "Sentinels that know each other")
        primary.client.flushall()
        primary.client.script_flush()

    def _follow(self, primary: Server) -> None:
        for server in self.servers:
            if server is not primary and server.info("replication").get("master_port") != primary.port:
                server.client.replicaof(HOST, primary.port)  # type: ignore[arg-type]
        until(lambda: primary.info("replication").get("connected_slaves") == 2, "two replicas")
        for server in self.servers:
            if server is not primary:
                until(lambda s=server: s.info("replication").get("master_link_status") == "up", "a replica in step")  # type: ignore[misc]

    def _settled(self, sentinel: Server) -> bool:
        primary = _facts(sentinel.client.execute_command("SENTINEL", "MASTER", self.service))
        replicas = map(_facts, sentinel.client.execute_command("SENTINEL", "REPLICAS", self.service))
        return (
            (primary["num-other-sentinels"], primary["flags"]) == ("2", "master")
            and [one["flags"] for one in replicas] == ["slave", "slave"]
        )  # fmt: skip

    def __exit__(self, *_: object) -> None:
        """End all."""
        for server in (*self.sentinels, *self.servers):
            server.__exit__()

    @property
    def primary(self) -> Server:
        """Whom the first Sentinel names."""
        _, port = self.sentinels[0].client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return next(server for server in self.servers if server.port == int(port))

    def replicas(self) -> list[Server]:
        """All but the primary."""
        primary = self.primary
        return [server for server in self.servers if server is not primary]

    def cut_replicas_off(self) -> None:
        """What the primary is told from now on, no replica hears."""
        primary = self.primary
        primary.client.execute_command("ACL", "SETUSER", "default", "-psync", "-sync")
        primary.client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        for server in self.replicas():
            until(lambda s=server: s.info("replication").get("master_link_status") == "down", "a replica cut off")  # type: ignore[misc]

    def wait_for_failover(self, old: Server) -> Server:
        """The new primary, once it takes writes and every Sentinel names it."""

        def named() -> bool:
            return all(
                int(sentinel.client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)[1]) != old.port
                for sentinel in self.sentinels
            )

        until(named, "another primary")
        # Asked anew each time: on a busy machine the Sentinels may take the one they just promoted for dead as well.
        until(lambda: named() and self.primary.info("replication").get("role") == "master", "a promoted replica")
        return self.primary


class TlsFront:
    """Takes TLS connections and passes what is in them to a plain server."""

    def __init__(self, target_port: int, certificate: Path) -> None:
        """``certificate``: a PEM file with the certificate and its key."""
        self._target = target_port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        #: Connections whose handshake succeeded.
        self.taken = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True, name="tls-front")

    def __enter__(self) -> Self:
        """Take connections."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take no more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._listener.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener, ssl=self._context))
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        self.taken += 1
        server_in, server_out = await asyncio.open_connection(HOST, self._target)
        try:
            ways = (self._pass(client_in, server_out), self._pass(server_in, client_out))
            await asyncio.wait([asyncio.ensure_future(way) for way in ways], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in (client_out, server_out):
                end.close()

    @staticmethod
    async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
