"""Two of the paper's ways in plain arithmetic, on the same samples: whether these are right shows in what they come to.

Random takes any host that has enough; BestFit the one with least left over of processors and GPUs, each in shares of
the largest host, in hundredths, and of such the first. Either takes the fullest of a host's GPUs that will do.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from benchmarks.openb_trace import WHOLE, Host, Task

_GPUS_MOST = 8


def simulated(hosts: Sequence[Host], tasks: Sequence[Task], way: str, seed: int) -> float:
    """GPU milli allocated in percent of all, by ``random`` or ``best fit``."""
    hosts = sorted(hosts, key=lambda host: host.name)
    dice, allocated = random.Random(seed), 0
    cpus = np.array([host.cpu_milli for host in hosts])
    memory = np.array([host.memory_mib for host in hosts])
    gpus = np.array([[WHOLE] * host.gpus + [-1] * (_GPUS_MOST - host.gpus) for host in hosts])
    cpus_most, gpus_most = int(cpus.max()), WHOLE * _GPUS_MOST
    total = int(gpus.clip(0).sum())
    for task in tasks:
        able = (cpus >= task.cpu_milli) & (memory >= task.memory_mib)
        if task.gpus:
            able &= (gpus >= task.gpu_milli).sum(axis=1) >= task.gpus
        likely = np.flatnonzero(able)
        if not len(likely):
            continue
        if way == "random":
            at = int(likely[dice.randrange(len(likely))])
        else:
            left = (cpus[likely] - task.cpu_milli) / cpus_most / 2
            left = left + (gpus[likely].clip(0).sum(axis=1) - task.wants_milli) / gpus_most / 2
            at = int(likely[np.floor(100 * (1 - left)).argmax()])
        cpus[at] -= task.cpu_milli
        memory[at] -= task.memory_mib
        order = [int(card) for card in gpus[at].argsort(kind="stable") if gpus[at][card] >= task.gpu_milli]
        for card in order[: task.gpus]:
            gpus[at][card] -= task.gpu_milli
        allocated += task.wants_milli
    return 100 * allocated / total
