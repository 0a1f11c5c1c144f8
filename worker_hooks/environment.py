"""From a lease to the process that uses it: its devices, and the caps that frameworks keep to.

Most are environment variables (``broker/caps.py``); frameworks without one are told when they are imported. All of it
is listed in ``docs/environment.md``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from worker_hooks.at_import import when_imported

if TYPE_CHECKING:
    from broker.lease import Lease


def cap_frameworks() -> None:
    """Keep PyTorch, TensorFlow and ONNX Runtime in this process to the lease that its environment names.

    Jobs need not call it. A Python program under ``gpubroker run``, or a process that a job starts, may: the variables
    reach it, and these three have none for a limit. Without a lease it does nothing.
    """
    memory = os.environ.get("GPUBROKER_MEMORY_BYTES", "")
    if not memory.isdecimal() or not int(memory):
        return
    for name in ("torch", "tensorflow", "onnxruntime"):
        when_imported(name, partial(_cap, name))


def _cap(name: str, module: Any) -> None:
    from worker_hooks import frameworks  # a job that uses none of them does not pay for it

    getattr(frameworks, f"cap_{name}")(module)


def enter(lease: Lease) -> None:
    """Make this process the one that uses the lease, for the rest of its life."""
    os.environ.update(lease.env())
    cap_frameworks()


@contextmanager
def entered(lease: Lease) -> Iterator[None]:
    """The same for the length of a ``with``, in a process that goes on to do other things."""
    told = lease.env()
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    cap_frameworks()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
