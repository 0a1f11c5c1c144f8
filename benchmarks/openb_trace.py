"""The published production trace: found, read, sampled as its authors did.

Two CSV files of https://github.com/hkust-adsl/kubernetes-scheduler-simulator, published with the ATC'23 paper "Beware
of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent": 1,213 hosts with 6,212 GPUs,
and 8,152 tasks. They are not part of this project.
"""

from __future__ import annotations

import csv
import random
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

NODES, TASKS = "openb_node_list_gpu_node.csv", "openb_pod_list_default.csv"
_FROM = "https://raw.githubusercontent.com/hkust-adsl/kubernetes-scheduler-simulator/main/data/csv/"
#: GPU milli that a whole GPU has.
WHOLE = 1000


class NoTrace(Exception):
    """The trace is not there and cannot be had; says what to do."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host of the trace: thousandths of processors, MiB, number of GPUs."""

    name: str
    cpu_milli: int
    memory_mib: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Task:
    """One task: what it wants of its host, and so many GPUs with so many thousandths of each."""

    cpu_milli: int
    memory_mib: int
    gpus: int
    gpu_milli: int

    @property
    def wants_milli(self) -> int:
        """GPU milli in all."""
        return self.gpus * self.gpu_milli

    @property
    def kind(self) -> str:
        """What sort of task it is, in a word or two."""
        if self.gpus == 0:
            return "no GPU"
        if self.gpus > 1:
            return "several GPUs"
        return "one GPU" if self.gpu_milli == WHOLE else "part of a GPU"


KINDS = ("no GPU", "part of a GPU", "one GPU", "several GPUs")


@dataclass(frozen=True, slots=True)
class Trace:
    """Hosts and tasks."""

    hosts: list[Host]
    tasks: list[Task]

    @property
    def gpus_milli(self) -> int:
        """GPU milli of all hosts."""
        return WHOLE * sum(host.gpus for host in self.hosts)

    def shuffled_hosts(self, seed: int) -> list[Host]:
        """The hosts under names that put them in another order for each seed, as the authors' simulator does."""
        order = list(range(len(self.hosts)))
        random.Random(f"hosts {seed}").shuffle(order)
        return [replace(host, name=f"{at:04d}-{host.name}") for at, host in zip(order, self.hosts, strict=True)]

    def sample(self, seed: int, arrived: float) -> list[Task]:
        """All tasks, shuffled, and then tasks drawn with replacement until ``arrived`` × the GPUs would be exceeded."""
        dice, most = random.Random(seed), arrived * self.gpus_milli
        tasks = self.tasks[:]
        dice.shuffle(tasks)
        total = sum(task.wants_milli for task in tasks)
        while True:
            task = dice.choice(self.tasks)
            if total + task.wants_milli > most:
                return list(_up_to(tasks, most))
            total += task.wants_milli
            tasks.append(task)


def _up_to(tasks: list[Task], most: float) -> Iterator[Task]:
    """The first tasks that come to no more than so much."""
    total = 0
    for task in tasks:
        total += task.wants_milli
        if total > most:
            return
        yield task


def read(folder: Path) -> Trace:
    """The trace in a folder.

    Raises:
        NoTrace: a file is not there, or not of this form.
    """
    try:
        with (folder / NODES).open(newline="") as nodes, (folder / TASKS).open(newline="") as tasks:
            return Trace(
                [
                    Host(row["sn"], int(row["cpu_milli"]), int(row["memory_mib"]), int(row["gpu"]))
                    for row in csv.DictReader(nodes)
                ],
                [
                    Task(*(int(row[name]) for name in ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli")))
                    for row in csv.DictReader(tasks)
                ],
            )
    except (OSError, KeyError, ValueError) as error:
        raise NoTrace(f"no trace in {folder}: {error}; it needs {NODES} and {TASKS}") from error


def fetch(folder: Path) -> Trace:
    """The trace, from a folder where it was put before, or from where it was published.

    Raises:
        NoTrace: it cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (NODES, TASKS):
        if (folder / name).exists():
            continue
        try:
            with urllib.request.urlopen(_FROM + name, timeout=30) as answer:
                text = answer.read()
        except (urllib.error.URLError, TimeoutError) as error:
            raise NoTrace(
                f"the trace cannot be downloaded ({error}); get {NODES} and {TASKS} from {_FROM} and say --data FOLDER"
            ) from error
        (folder / name).write_bytes(text)
    return read(folder)
