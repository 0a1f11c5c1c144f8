"""From a lease to the process that uses it: its device, and the caps that frameworks keep to.

Most are environment variables. PyTorch has none for its share of a card, so it is told when CUDA starts, if it ever
does.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from broker.lease import CONTEXT_BYTES

if TYPE_CHECKING:
    from broker.lease import Lease


def enter(lease: Lease) -> None:
    """Make this process the one that uses the lease, for the rest of its life."""
    os.environ.update(lease.env())
    cap_torch(lease.memory_bytes)


@contextmanager
def entered(lease: Lease) -> Iterator[None]:
    """The same for the length of a ``with``, in a process that goes on to do other things."""
    before = {name: os.environ.get(name) for name in lease.env()}
    enter(lease)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def cap_torch(memory_bytes: int) -> None:
    """Keep PyTorch's allocator to the lease, less the CUDA context; costs nothing in a job that never uses CUDA."""
    _AtTorch.memory_bytes = memory_bytes
    torch = sys.modules.get("torch")
    if torch is not None:
        _cap(torch)
    elif not any(isinstance(finder, _AtTorch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AtTorch())


def torch_fraction(memory_bytes: int, total_bytes: int) -> float:
    """The share of a card that PyTorch may allocate, above 0 and at most 1."""
    cap = memory_bytes - CONTEXT_BYTES if memory_bytes > 2 * CONTEXT_BYTES else memory_bytes
    return min(1.0, cap / total_bytes)


def _cap(torch: ModuleType | Any) -> None:
    cuda = getattr(torch, "cuda", None)
    # Setting the fraction starts CUDA; PyTorch's own queue for that moment (as for seeds) leaves it to the job.
    later = getattr(cuda, "_lazy_call", None)
    if cuda is None or later is None:
        return

    def limit() -> None:
        total = cuda.get_device_properties(0).total_memory
        cuda.set_per_process_memory_fraction(torch_fraction(_AtTorch.memory_bytes, total), 0)

    later(limit)


class _AtTorch(MetaPathFinder):
    """Waits for ``import torch``, then steps aside."""

    memory_bytes = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenCap(spec.loader)
        return spec


class _ThenCap(Loader):
    """A module's own loader, with the cap set once the module stands."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module's own loader from here on: what torch asks of its spec is not ours to answer.
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _cap(module)


__all__ = ["cap_torch", "enter", "entered", "torch_fraction"]
