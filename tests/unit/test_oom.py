"""A card's memory that ran out is known by its name or its words, in whatever framework, and nothing else is."""

from __future__ import annotations

import pytest

from worker_hooks.oom import is_out_of_memory


def kind(name: str, *bases: type[BaseException]) -> type[BaseException]:
    """A class of that dotted name, as a framework would have it."""
    module, _, short = name.rpartition(".")
    return type(short, bases or (RuntimeError,), {"__module__": module})


TORCH = "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 3.82 GiB total capacity; 2.94 GiB already allocated)"
BFC = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for requested buffer of size 9"
)
TENSORFLOW = "tensorflow.python.framework.errors_impl.ResourceExhaustedError"
TENSOR = (
    "OOM when allocating tensor with shape[128,768] and type float on /job:localhost/replica:0/task:0/device:{} by {}"
)


@pytest.mark.parametrize("error", [
    kind("torch.OutOfMemoryError")(TORCH),
    kind("torch.OutOfMemoryError")("somebody shortened the text"),
    kind("torch.cuda.OutOfMemoryError")(TORCH),
    kind("photos.TooLarge", kind("torch.OutOfMemoryError"))("a class made of it"),
    RuntimeError(TORCH),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    kind("jaxlib.xla_extension.XlaRuntimeError")("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."),
    kind("jaxlib._jax.JaxRuntimeError")("RESOURCE_EXHAUSTED: Failed to allocate request for 2.99GiB on device 0"),
    kind("cupy.cuda.memory.OutOfMemoryError", MemoryError)("Out of memory allocating 200,000 bytes (allocated: 4)"),
    kind("cupy_backends.cuda.api.runtime.CUDARuntimeError")("cudaErrorMemoryAllocation: out of memory"),
    kind("onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException", Exception)(BFC),
    kind(TENSORFLOW, Exception)(TENSOR.format("GPU:0", "GPU_0_bfc")),
    kind("numba.cuda.cudadrv.driver.CudaAPIError", Exception)("Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"),
    kind("pycuda._driver.MemoryError")("cuMemAlloc failed: out of memory"),
    MemoryError("std::bad_alloc: out_of_memory: CUDA error at: /rmm/cuda_memory_resource.hpp"),
    kind("cv2.error", Exception)("(-217:Gpu API call) out of memory in function 'allocate'"),
], ids=lambda error: f"{type(error).__module__}.{type(error).__name__}")  # fmt: skip
def test_every_framework_s_own_is_known(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [
    MemoryError(), MemoryError("Unable to allocate 24.0 GiB for an array with shape (1, 2)"),
    ValueError("the photo is broken"), RuntimeError("CUDA error: an illegal memory access was encountered"),
    kind("google.api_core.exceptions.ResourceExhausted", Exception)("429 RESOURCE_EXHAUSTED: Quota exceeded"),
    kind("grpc.RpcError", Exception)("StatusCode.RESOURCE_EXHAUSTED"),
    kind(TENSORFLOW, Exception)(TENSOR.format("CPU:0", "cpu")),
    kind("jaxlib.xla_extension.XlaRuntimeError")("INVALID_ARGUMENT: shapes do not match"),
    kind("photos.OutOfMemoryError")("this studio's own word for a full card of a camera"),
    kind("cv2.error", Exception)("(-4:Insufficient memory) Failed to allocate 9 bytes in function 'OutOfMemoryError'"),
    OSError(12, "Cannot allocate memory"), KeyboardInterrupt(),
], ids=lambda error: f"{type(error).__module__}.{type(error).__name__}")  # fmt: skip
def test_what_is_something_else_is_not(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def raised(first: BaseException, then: BaseException, *, cause: bool | None) -> BaseException:
    """``then`` as it is caught after ``first``: raised from it, in its midst, or from nothing."""
    try:
        try:
            raise first
        except type(first):
            if cause is None:
                raise then from None
            if cause:
                raise then from first
            raise then  # noqa: B904 - that is what is meant
    except type(then) as caught:
        return caught


@pytest.mark.parametrize("cause", [True, False])
def test_what_it_came_of_counts(cause: bool) -> None:
    assert is_out_of_memory(raised(RuntimeError(TORCH), ValueError("photo 7 failed"), cause=cause))


def test_what_somebody_said_does_not_matter_does_not() -> None:
    assert not is_out_of_memory(raised(RuntimeError(TORCH), ValueError("something else"), cause=None))


def test_one_of_several_at_once_counts() -> None:
    assert is_out_of_memory(
        ExceptionGroup("photos", [ValueError("one"), ExceptionGroup("more", [RuntimeError(TORCH)])])
    )


def test_a_chain_that_bites_its_tail_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert not is_out_of_memory(one)


def test_an_exception_that_cannot_say_its_text_is_none() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("not even this")

    assert not is_out_of_memory(Mute())
