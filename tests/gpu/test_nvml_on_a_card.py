"""What NVML says of a real card, what the lease says, and what the process took. Run by `make test-gpu`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from agent.sampler import Sampler
from agent.sources import NoGpuError, Reading
from agent.sources.nvml import NvmlSource
from broker import Broker
from broker.hardware import FIELDS, WORDS
from broker.units import GIB

#: Takes so many bytes of the first card, a line of standard input after the other, through CUDA's driver itself.
_TAKE = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
device, context, place = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
def must(code):
    if code: sys.exit(f"CUDA error {code}")
must(cuda.cuInit(0))
must(cuda.cuDeviceGet(ctypes.byref(device), 0))
must(cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device))
for line in sys.stdin:
    size = ctypes.c_size_t(int(line))
    must(cuda.cuMemAlloc_v2(ctypes.byref(place), size))
    must(cuda.cuMemsetD8_v2(place, ctypes.c_ubyte(1), size))
    must(cuda.cuCtxSynchronize())
    print("taken", flush=True)
"""
#: A context of CUDA and what the driver keeps beside take no more than this.
CONTEXT_BYTES = GIB


@pytest.fixture
def source() -> Iterator[NvmlSource]:
    source = NvmlSource()
    try:
        source.read(lambda uuids: {})
    except NoGpuError as error:
        pytest.skip(f"no NVIDIA GPU can be read here: {error}")
    yield source
    source.close()


def test_a_real_card_is_read_whole_and_makes_sense(source: NvmlSource) -> None:
    for reading in source.read(lambda uuids: {}):
        assert reading.fault == ""
        assert reading.uuid.startswith(("GPU-", "MIG-"))
        total, used = reading.memory_total_bytes, reading.memory_used_bytes
        assert total is not None
        assert used is not None
        assert total > GIB // 2
        assert 0 <= used <= total
        assert reading.temperature_c is None or 5 <= reading.temperature_c <= 110
        assert set(reading.hardware) <= FIELDS.keys()
        assert all(isinstance(value, str) == (name in WORDS) for name, value in reading.hardware.items())
        print({name: getattr(reading, name) for name in Reading.__slots__})


@pytest.fixture
def taker() -> Iterator[Callable[[int], int]]:
    """Takes bytes of the first card in a process of its own; its pid."""
    process = subprocess.Popen([sys.executable, "-c", _TAKE], stdin=-1, stdout=-1, stderr=-1, text=True)
    assert process.stdin is not None
    assert process.stdout is not None

    def take(size: int) -> int:
        assert process.stdin is not None
        assert process.stdout is not None
        if size:
            process.stdin.write(f"{size}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "taken\n", process.communicate()[1]
        return process.pid

    yield take
    process.kill()
    process.communicate()


def test_a_real_allocation_is_the_leases_and_nobody_elses(
    broker: Broker, source: NvmlSource, taker: Callable[[int], int]
) -> None:
    sampler = Sampler(broker, "real", source)
    sampler.sample()
    card = min((gpu for gpu in broker.gpus() if gpu.lends), key=lambda gpu: gpu.index)
    before = card.unmanaged_bytes or 0
    lease = broker.acquire("3GiB", gpu=card.uuid, pid=taker(0), ttl=120)
    taker(GIB)
    sampler.sample()
    record, gpu = broker.get(lease.id), next(gpu for gpu in broker.gpus() if gpu.uuid == card.uuid)
    assert record is not None
    if record.used_bytes is None:
        pytest.skip("this driver does not tell the memory of each process (as in a container with pids of its own)")
    assert GIB <= record.used_bytes <= GIB + CONTEXT_BYTES
    assert record.over_bytes == 0
    assert (gpu.unmanaged_bytes or 0) - before < CONTEXT_BYTES // 2
    taker(3 * GIB)
    sampler.sample()
    (overuse,) = [event for event in broker.events() if event.kind == "overuse"]
    assert GIB <= int(overuse.fields["over_bytes"]) <= GIB + CONTEXT_BYTES
    lease.release()
