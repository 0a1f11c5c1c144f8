"""One number, and what each framework is told of it."""

from __future__ import annotations

import pytest

from broker import caps
from broker.units import GIB, MIB

TOTALS = (24 * GIB,)
CAP = 8 * GIB - 500 * MIB


def told(
    given: dict[str, str] | None = None, memory: int = 8 * GIB, totals: tuple[int, ...] = TOTALS
) -> dict[str, str]:
    return caps.variables(memory, totals, given or {})


def test_every_framework_is_told_the_same_number_in_its_own_words() -> None:
    found = told()
    assert float(found["XLA_PYTHON_CLIENT_MEM_FRACTION"]) == pytest.approx(CAP / (24 * GIB), abs=1e-6)
    assert float(found["XLA_PYTHON_CLIENT_MEM_FRACTION"]) * 24 * GIB <= CAP
    assert found["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert found["CUPY_GPU_MEMORY_LIMIT"] == str(CAP)
    assert found["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=8192M"
    assert found["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert found["PYTORCH_CUDA_ALLOC_CONF"] == found["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_jax_is_never_given_both_names_of_its_fraction() -> None:
    assert "XLA_CLIENT_MEM_FRACTION" not in told()
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in told({"XLA_CLIENT_MEM_FRACTION": ".9"})


def test_a_fraction_is_too_much_of_no_card() -> None:
    found = told(totals=(24 * GIB, 48 * GIB))
    assert float(found["XLA_PYTHON_CLIENT_MEM_FRACTION"]) * 48 * GIB <= CAP
    assert found["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=8192M,1=8192M"


def test_a_fraction_of_a_card_whose_size_is_not_known_is_left_out() -> None:
    found = told({"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}, totals=(24 * GIB, 0))
    assert not any("FRACTION" in name for name in found)
    assert found["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"  # the whole card else


@pytest.mark.parametrize(("name", "smaller", "larger"), [
    ("XLA_CLIENT_MEM_FRACTION", ".25", ".75"),
    ("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.1", "4.0"),
    ("CUPY_GPU_MEMORY_LIMIT", "1000000000", "20000000000"),
    ("CUPY_GPU_MEMORY_LIMIT", "20%", "90%"),
    ("CUPY_GPU_MEMORY_LIMIT", "1e9", "0"),
    ("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=2G", "0=10G"),
    ("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=2048M", "1=2G"),
    ("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=2GB", "all of it"),
])  # fmt: skip
def test_a_users_own_cap_stays_while_it_is_smaller(name: str, smaller: str, larger: str) -> None:
    assert told({name: smaller})[name] == smaller
    assert told({name: larger})[name] not in ("", larger)


def test_a_users_own_allocator_stays_as_it_is() -> None:
    found = told({"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync", "XLA_PYTHON_CLIENT_PREALLOCATE": "true"})
    assert "PYTORCH_CUDA_ALLOC_CONF" not in found
    assert "PYTORCH_ALLOC_CONF" not in found
    assert found["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"


def test_what_an_earlier_lease_set_is_not_the_users_own() -> None:
    small = told(memory=2 * GIB)
    assert told(small) == told()
    assert told(small | {"CUPY_GPU_MEMORY_LIMIT": "1000000000"})["CUPY_GPU_MEMORY_LIMIT"] == "1000000000"


def test_a_lease_hardly_larger_than_a_context_is_not_reduced_to_nothing() -> None:
    assert caps.allowed_bytes(600 * MIB) == 600 * MIB
    assert caps.allowed_fraction(80 * GIB, (6 * GIB,)) == 1.0
