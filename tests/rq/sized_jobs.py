"""Jobs that leave their size to what was learned, and what runs out of memory in them."""

from __future__ import annotations

import os
import time

from tests.rq.jobs import say, wait_for_go
from worker_hooks import gpu_job


class OutOfMemoryError(RuntimeError):
    """As PyTorch's."""


OutOfMemoryError.__module__ = "torch"


def had() -> int:
    return int(os.environ["GPUBROKER_MEMORY_BYTES"])


def megapixels(width: float, height: float = 1, **_: object) -> float:
    return width * height


@gpu_job("photos", memory="auto", default="4GiB", size_of=megapixels)
def enhance(width: float, height: float = 1) -> int:
    return had()


@gpu_job("photos", memory="auto", default="4GiB", size_of=megapixels)
def enhance_slowly(width: float, *, fails: bool = False) -> int:
    say(lease=os.environ["GPUBROKER_LEASE_ID"], memory=had())
    time.sleep(1.1)
    wait_for_go()
    if fails:
        raise ValueError("the photo is broken")
    return had()


@gpu_job("photos", memory="auto", default="2GiB")
def greedy(needs: int) -> int:
    say(memory=had())
    if had() < needs:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    return had()


@gpu_job("photos", memory="2GiB")
def greedy_of_a_fixed_size() -> None:
    say(memory=had())
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


@gpu_job("photos", memory="auto", default="1GiB", labels={"rack": "a"})
def in_rack() -> int:
    return had()


def calls_greedy(needs: int) -> int:
    return greedy(needs)


def undecorated() -> int:
    return had()
