"""Frameworks that no environment variable caps: told when they are imported, if they ever are.

The signatures called here, and where they are documented, are in ``docs/environment.md``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

from broker.caps import allowed_bytes
from broker.units import MIB

_CUDA = "CUDAExecutionProvider"
#: On what was put in the place of a framework's own function.
_OURS = "_gpubroker"


def _allowed() -> int | None:
    """Bytes of each card, under the lease of this moment: one process may work under several, one after the other."""
    memory = os.environ.get("GPUBROKER_MEMORY_BYTES", "")
    return allowed_bytes(int(memory)) if memory.isdecimal() and int(memory) else None


def cap_torch(torch: Any) -> None:
    """PyTorch: a fraction of each card, set when the job begins with CUDA."""
    cuda = getattr(torch, "cuda", None)
    # Setting the fraction starts CUDA; PyTorch's own queue for that moment (as for seeds) leaves it to the job.
    later = getattr(cuda, "_lazy_call", None)
    if cuda is None or later is None:
        return

    def limit() -> None:
        allowed = _allowed()
        for card in range(cuda.device_count() if allowed else 0):
            total = cuda.get_device_properties(card).total_memory
            cuda.set_per_process_memory_fraction(min(1.0, (allowed or 0) / total), card)

    later(limit)


def cap_tensorflow(tensorflow: Any) -> None:
    """TensorFlow: a logical card of that size on each card that has none yet."""
    allowed, config = _allowed(), tensorflow.config
    cards = config.list_physical_devices("GPU") if allowed else []
    for card in cards:
        # A job's own limit, set earlier in this process, is its own matter.
        if not config.get_logical_device_configuration(card):
            limit = config.LogicalDeviceConfiguration(memory_limit=max(1, (allowed or 0) // MIB))
            config.set_logical_device_configuration(card, [limit])
    if cards:
        _let_grow(config.experimental, cards)


def _let_grow(experimental: Any, capped: Sequence[Any]) -> None:
    """``set_memory_growth``, which half of all programs begin with, is refused for a card with a limit. The variable
    has seen to growth already.
    """
    refusing = experimental.set_memory_growth
    if hasattr(refusing, _OURS):
        return

    @functools.wraps(refusing)
    def set_memory_growth(device: Any, enable: bool) -> None:
        if not (enable and device in capped):
            refusing(device, enable)

    setattr(set_memory_growth, _OURS, True)
    experimental.set_memory_growth = set_memory_growth


def cap_onnxruntime(onnxruntime: Any) -> None:
    """ONNX Runtime: a limit among the options of CUDA's provider, for each session."""
    # Wrapped in the class and not in its place: it is imported from other modules too, and inherited from.
    session = onnxruntime.InferenceSession
    begin = session.__init__
    if hasattr(begin, _OURS):
        return

    @functools.wraps(begin)
    def capped(
        self: Any, path_or_bytes: Any, sess_options: Any = None, providers: Any = None, provider_options: Any = None,
        **others: Any,
    ) -> None:  # fmt: skip
        allowed = _allowed()
        if allowed is not None:
            providers = providers or _default_providers(onnxruntime, sess_options)
            providers, provider_options = _with_limit(providers, provider_options, allowed)
        begin(self, path_or_bytes, sess_options, providers, provider_options, **others)

    setattr(capped, _OURS, True)
    session.__init__ = capped


def _default_providers(onnxruntime: Any, sess_options: Any) -> Any:
    """All there are, if CUDA's is one of them: what a session takes that names none, in its options neither."""
    named = getattr(sess_options, "has_providers", None)
    available = onnxruntime.get_available_providers()
    return None if (named is not None and named()) or _CUDA not in available else available


def _with_limit(providers: Any, options: Any, allowed: int) -> tuple[Any, Any]:
    """The same providers in the same form, CUDA's with a limit."""
    if not providers:
        return providers, options
    if options:  # a list of names, and one of options beside it
        if len(options) != len(providers):
            return providers, options  # it says by itself what is wrong with that
        pairs = zip(providers, options, strict=True)
        return providers, [_limited(own, allowed) if name == _CUDA else own for name, own in pairs]
    return [_provider_with_limit(one, allowed) for one in providers], options


def _provider_with_limit(provider: Any, allowed: int) -> Any:
    """A name, or a name and its options."""
    if provider == _CUDA:
        return (_CUDA, _limited({}, allowed))
    if isinstance(provider, tuple) and provider[:1] == (_CUDA,):
        return (_CUDA, _limited(provider[1], allowed))
    return provider


def _limited(own: dict[str, Any], allowed: int) -> dict[str, Any]:
    """A smaller limit of the user's own stays. The arena grows by what is asked for, not to the next power of two."""
    limit = min(allowed, int(own.get("gpu_mem_limit", allowed)))
    return {"arena_extend_strategy": "kSameAsRequested", **own, "gpu_mem_limit": limit}
