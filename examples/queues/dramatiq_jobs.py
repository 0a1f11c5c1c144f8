"""A Dramatiq actor on borrowed GPU memory: ``dramatiq dramatiq_jobs --processes 4 --threads 1``."""

import os
from pathlib import Path

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from broker import get_broker, this_host

dramatiq.set_broker(RedisBroker(url=os.environ["GPUBROKER_REDIS_URL"]))


@dramatiq.actor
def enhance(path: str) -> None:
    with get_broker().lease("4GiB", wait=600, host=this_host()) as lease:
        os.environ.update(lease.env())  # one thread a process: the environment is the process's
        Path(path).write_text(f"enhanced on {lease.gpu_uuids[0]}")
