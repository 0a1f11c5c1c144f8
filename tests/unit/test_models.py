"""Records of what the ledger keeps as text."""

from __future__ import annotations

import pytest

from broker.models import FunctionAccount, Gpu, Host, LeaseRecord, Tenant, Waiter, asks_text
from broker.units import GIB

LEASE = {
    "id": "a", "gpu_uuids": "GPU-a,GPU-b", "host": "h1", "memory_bytes": "4", "token": "9", "owner": "me",
    "tenant": "studio", "priority": "0", "state": "active", "created_at": "1", "expires_at": "2", "ttl_ms": "3",
}  # fmt: skip
WAITER = {
    "id": "w", "memory_bytes": str(16 * GIB), "gpus": "1", "asks": f"{16 * GIB},2x{8 * GIB}", "owner": "me",
    "tenant": "studio", "priority": "0", "since": "1", "deadline": "2",
}  # fmt: skip


def test_a_lease_of_several_gpus_counts_its_bytes_on_each() -> None:
    lease = LeaseRecord.from_hash(LEASE)
    assert (lease.uuids, lease.gpus, lease.total_bytes) == (("GPU-a", "GPU-b"), 2, 8)
    assert (lease.choice, lease.revoke_at, lease.adopted, lease.registered) == (1, None, False, False)


def test_marks_of_a_lease_are_read_from_their_texts() -> None:
    lease = LeaseRecord.from_hash({**LEASE, "revoke_at": "7", "adopted": "1", "registered": "1", "pid": ""})
    assert (lease.revoke_at, lease.adopted, lease.registered, lease.pid) == (7, True, True, None)


def test_a_waiter_says_what_it_wants_as_people_read_it() -> None:
    waiter = Waiter.from_hash({**WAITER, "reserved_gpus": "GPU-a,GPU-b"})
    assert waiter.memory == "16.0 GiB or 2x8.0 GiB"
    assert waiter.reserved == ("GPU-a", "GPU-b")


@pytest.mark.parametrize(("asks", "text"), [
    (str(GIB), "1.0 GiB"), (f"1x{GIB}", "1.0 GiB"), (f"3x{GIB},{GIB // 2}", "3x1.0 GiB or 512 MiB"),
])  # fmt: skip
def test_alternatives_are_told_in_their_order(asks: str, text: str) -> None:
    assert asks_text(asks) == text


def test_the_class_of_a_gpu_is_read_from_the_hashs_own_name() -> None:
    hash_ = {
        "uuid": "GPU-a", "host": "h1", "index": "0", "name": "T", "state": "OPTIMAL", "speed": "1.0",
        "job_state": "OPTIMAL", "job_speed": "1.0", "budget_bytes": "1", "capacity_bytes": "1", "leased_bytes": "0",
        "free_bytes": "1", "sampled_at": "1", "fresh_until": "2", "drained": "1", "drained_by": "gpu,host",
        "class": "8.6||rack=a", "capability": "8.6", "mig": "", "labels": "rack=a", "reserved_for": "w",
    }  # fmt: skip
    gpu = Gpu.from_hash(hash_)
    assert (gpu.gpu_class, gpu.capability, gpu.mig, gpu.reserved_for) == ("8.6||rack=a", "8.6", "", "w")


def test_a_tenant_without_a_quota_has_none_and_functions_have_accounts() -> None:
    tenant = Tenant.from_hash({
        "name": "studio", "quota_bytes": "0", "weight_milli": "2500", "leased_bytes": "7", "usage": "12.500",
        "usage_at": "9", "f:-": "1 2 3 4 5 6", "f:enhance": "2 10 20 3000 40 0",
    })  # fmt: skip
    assert (tenant.quota_bytes, tenant.weight, tenant.usage_mib_seconds) == (None, 2.5, 12.5)
    assert tenant.functions["-"] == FunctionAccount(
        count=1, mib_seconds=2, waited_ms=3, held_ms=4, asked_mib=5, peak_mib=6
    )
    assert tenant.mean_held_ms("enhance") == 1500
    assert tenant.mean_held_ms("never seen") == pytest.approx(3004 / 3)
    assert Tenant.from_hash({"name": "new"}).mean_held_ms() is None


def test_what_a_host_did_not_tell_is_not_known() -> None:
    host = Host.from_hash({"host": "h1", "gpus": "GPU-a GPU-b", "drained": "1", "memory_bytes": ""})
    assert (host.uuids, host.drained, host.memory_bytes) == (("GPU-a", "GPU-b"), True, None)
