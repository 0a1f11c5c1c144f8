"""From a lease to the process that uses it: its devices, and the caps that frameworks keep to.

Most are environment variables (``broker/caps.py``); frameworks without one are told when they are imported. All of it
is listed in ``docs/environment.md``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker_hooks.frameworks import cap_frameworks

if TYPE_CHECKING:
    from broker.lease import Lease


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
