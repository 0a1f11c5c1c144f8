"""Whether a job failed for want of a card's memory. By names and words only: no framework is imported for it.

The texts are those that the frameworks' users report; host memory that ran out (``MemoryError``) is another matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

#: The end of a class's dotted name, anywhere among an exception's bases: that alone says so.
_CLASSES = re.compile(r"(^|\.)(torch(\.\w+)*|cupy(\.\w+)*)\.OutOfMemoryError$")
#: Classes that say so together with a text.
_CLASSES_WITH = (
    # JAX; other libraries' RESOURCE_EXHAUSTED is a quota of theirs.
    (re.compile(r"\.(XlaRuntimeError|JaxRuntimeError)$"), re.compile(r"RESOURCE_EXHAUSTED|[Oo]ut of memory")),
    # TensorFlow names the device whose memory it is.
    (re.compile(r"^tensorflow\..*\.ResourceExhaustedError$"), re.compile(r"device:GPU|GPU_\d+_bfc", re.IGNORECASE)),
)
#: What the driver and the libraries on it say, through whatever class it comes.
_TEXTS = re.compile(
    r"(CUDA|HIP)( error:| driver error:)? out of memory"
    r"|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|hipErrorOutOfMemory"
    r"|(CUBLAS|CUDNN|CUSOLVER|CUSPARSE|HIPBLAS|CUFFT)_(STATUS_)?ALLOC_FAILED"
    r"|cuMemAlloc\w* failed: out of memory"  # PyCUDA
    r"|BFCArena::.*Failed to allocate memory"  # ONNX Runtime
    r"|std::bad_alloc: out_of_memory: (CUDA|RMM)"  # RMM
    r"|Gpu API call\) out of memory"  # OpenCV
    r"|Out of memory error on GPU",  # Paddle
    re.DOTALL,
)
_LINKS_MOST = 20


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a card's memory ran out, be it that this exception says so or one that it came of."""
    return any(map(_says_so, _chain(error)))


def _says_so(error: BaseException) -> bool:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - whatever somebody's own class does with its text
        text = ""
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
    if any(_CLASSES.search(name) for name in names):
        return True
    if any(kind.search(name) and words.search(text) for kind, words in _CLASSES_WITH for name in names):
        return True
    return _TEXTS.search(text) is not None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """It, what it was raised from or while, and the members of groups; each once, and not without end."""
    left, seen = [error], set[int]()
    while left and len(seen) < _LINKS_MOST:
        one = left.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [other for other in (one.__cause__, None if one.__suppress_context__ else one.__context__) if other]
        left += one.exceptions if isinstance(one, BaseExceptionGroup) else ()


__all__ = ["is_out_of_memory"]
