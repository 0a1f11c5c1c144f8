"""The hosts of a soak: their cards' agents, their RQ workers, and who kills them."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from broker import Broker
from broker.errors import BrokerError
from broker.process import began
from broker.publish import Publisher
from broker.values import LeaseVerdict
from tests.conftest import report

#: Of these kinds and on these queues, on each host.
POSTS = (
    ("worker_hooks.GpuWorker", ("big", "small")),
    ("worker_hooks.GpuWorker", ("small",)),
    ("worker_hooks.GpuSimpleWorker", ("small", "big")),
)
#: How often each is drawn. A pause is no kill and counts apart.
WEIGHTS = {"horse": 5.0, "worker": 3.0, "helper": 2.0, "pause": 1.0}
_SAMPLE_SECONDS = 0.5
_INTERVAL_MS = 3000  # a sample counts for three of them, so that a busy machine does not close a card


class Agents:
    """The agents of all hosts, in one thread: fresh samples, and whose process is seen."""

    def __init__(self, url: str, hosts: dict[str, tuple[str, ...]]) -> None:
        """Publish each host's cards once, then from the thread."""
        self._broker = Broker.from_url(url)
        self._hosts = {Publisher(self._broker, host): uuids for host, uuids in hosts.items()}
        self._stopped = threading.Event()
        self.failed = ""
        self._publish()
        self._thread = threading.Thread(target=self._run, name="agents", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(_SAMPLE_SECONDS):
            try:
                self._publish()
            except (BrokerError, OSError) as error:
                self.failed = f"the agents stopped: {error!r}"
                return

    def _publish(self) -> None:
        for publisher, uuids in self._hosts.items():
            held = {lease.id: lease for leases in publisher.held(uuids).values() for lease in leases}
            verdicts = [
                LeaseVerdict(one.id, one.token, "alive" if began(one.pid) == one.pid_started else "gone")
                for one in held.values()
                if one.pid and one.pid_started
            ]
            reports = [report(uuid, index) for index, uuid in enumerate(uuids)]
            publisher.publish(reports, _INTERVAL_MS, verdicts=verdicts)

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()
        self._broker.close()


@dataclass(slots=True)
class Worker:
    """One worker's process, from its start to its death."""

    name: str
    host: str
    kind: str
    queues: tuple[str, ...]
    process: subprocess.Popen[bytes]
    #: What was done to it and its children: what, and when.
    hits: list[tuple[str, float]] = field(default_factory=list)

    @property
    def lives(self) -> bool:
        """Whether it is there."""
        return self.process.poll() is None

    def children(self, *, helpers: bool) -> list[int]:
        """Its helpers, or its work-horses."""
        found = []
        with contextlib.suppress(OSError):
            for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if command and (b"worker_hooks.keep" in command) == helpers:
                    found.append(int(pid))
        return found


class Workers:
    """The workers of all hosts; who dies is replaced by another of its post."""

    def __init__(self, url: str, hosts: tuple[str, ...], logs: Path) -> None:
        """Start them all."""
        self._url, self._logs, self._numbers = url, logs, itertools.count(1)
        #: All that there ever were, by name.
        self.all: dict[str, Worker] = {}
        self.posts: dict[tuple[str, int], Worker] = {}
        self.deaths: list[str] = []
        for host in hosts:
            for post, (kind, queues) in enumerate(POSTS):
                self.posts[host, post] = self._start(host, kind, queues)

    def _start(self, host: str, kind: str, queues: tuple[str, ...]) -> Worker:
        name = f"{host}-w{next(self._numbers)}"
        command = [sys.executable, "-m", "rq.cli", "worker", "-u", self._url, "-w", kind, "-n", name, *queues]
        env = {**os.environ, "GPUBROKER_REDIS_URL": self._url, "GPUBROKER_HOST": host}
        with open(self._logs / f"{name}.log", "wb") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        made = self.all[name] = Worker(name, host, kind, queues, process)
        return made

    def replace_dead(self) -> None:
        """Start another one in place of each that died; one that was not killed is a complaint."""
        for post, worker in self.posts.items():
            if worker.lives:
                continue
            if not any(what == "worker" for what, _ in worker.hits):
                end = (self._logs / f"{worker.name}.log").read_text(errors="replace")[-1500:]
                self.deaths.append(f"{worker.name} ({worker.kind}) died by itself, {worker.process.returncode}:\n{end}")
            self.posts[post] = self._start(worker.host, worker.kind, worker.queues)

    def log_of(self, name: str, word: str) -> list[str]:
        """The lines of a worker's log in which a word stands."""
        return [line for line in (self._logs / f"{name}.log").read_text(errors="replace").splitlines() if word in line]

    def stop(self) -> None:
        """SIGTERM to all: an idle worker goes at once, one at work when its job is done."""
        living = [worker for worker in self.posts.values() if worker.lives]
        for worker in living:
            worker.process.send_signal(signal.SIGCONT)
            worker.process.terminate()
        for worker in living:
            try:
                if worker.process.wait(30):
                    self.deaths.append(f"{worker.name} ended with {worker.process.returncode} on SIGTERM")
            except subprocess.TimeoutExpired:
                self.deaths.append(f"{worker.name} did not end within 30 s of SIGTERM")
                os.killpg(worker.process.pid, signal.SIGKILL)
                worker.process.wait()


class Killer:
    """Kills and pauses, drawn by lot."""

    def __init__(self, workers: Workers, dice: random.Random, pauses: tuple[float, float]) -> None:
        """Nobody is dead yet. ``pauses`` are the least and most seconds that a worker is frozen."""
        self._workers, self._dice, self._seconds = workers, dice, pauses
        self.done: Counter[str] = Counter()
        self._frozen: dict[str, float] = {}

    @property
    def kills(self) -> int:
        """How many were killed."""
        return self.done.total() - self.done["pause"] - self.done["blackout"]

    def strike(self) -> str:
        """Do one thing to somebody; what was done, or nothing if nobody was there for it."""
        kind = self._dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        living = [worker for worker in self._workers.posts.values() if worker.lives and worker.name not in self._frozen]
        self._dice.shuffle(living)
        for worker in living:
            if self._does(kind, worker):
                self.done[kind] += 1
                return kind
        return ""

    def _does(self, kind: str, worker: Worker) -> bool:
        if kind == "worker":
            return self._send(worker, kind, worker.process.pid)
        children = worker.children(helpers=kind == "helper")
        if kind == "pause":  # one in the midst of a job
            if not children or not self._send(worker, kind, worker.process.pid):
                return False
            self._frozen[worker.name] = time.monotonic() + self._dice.uniform(*self._seconds)
            return True
        return bool(children) and self._send(worker, kind, self._dice.choice(children))

    def _send(self, worker: Worker, kind: str, pid: int) -> bool:
        worker.hits.append((kind, time.monotonic()))
        try:
            os.kill(pid, signal.SIGSTOP if kind == "pause" else signal.SIGKILL)
        except ProcessLookupError:
            worker.hits.pop()
            return False
        return True

    def strike_all(self) -> None:
        """The power goes off: every worker is gone at once."""
        self.thaw(all_of_them=True)
        for worker in self._workers.posts.values():
            if worker.lives and self._send(worker, "worker", worker.process.pid):
                worker.process.wait()
        self.done["blackout"] += 1

    def thaw(self, *, all_of_them: bool = False) -> None:
        """Let those go on whose pause is over."""
        for name, until in list(self._frozen.items()):
            worker = self._workers.all[name]
            if all_of_them or time.monotonic() >= until:
                del self._frozen[name]
                worker.hits.append(("thaw", time.monotonic()))
                if worker.lives:
                    os.kill(worker.process.pid, signal.SIGCONT)
