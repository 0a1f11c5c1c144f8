"""What answers look like, for the schema: a test holds each against its model."""

from __future__ import annotations

from typing import Any

_NOW = 1_764_288_000_000
_GIB = 1 << 30
_TOKEN = 243_335_168_000_001

GPU: dict[str, Any] = {
    "uuid": "GPU-studio-a-0", "host": "studio-a", "index": 0, "name": "NVIDIA GeForce RTX 2060", "state": "NORMAL",
    "speed": 0.8, "job_state": "NORMAL", "job_speed": 0.8, "reason": "68 °C is NORMAL", "temperature_c": 68,
    "memory_total_bytes": 6 * _GIB, "memory_used_bytes": 4 * _GIB, "memory_reserved_bytes": 268_435_456,
    "utilization_percent": 92, "power_mw": 151_000, "budget_bytes": 5_905_580_032, "capacity_bytes": 5_905_580_032,
    "leased_bytes": 4 * _GIB, "free_bytes": 1_610_612_736, "unmanaged_bytes": 0, "short_bytes": 0, "sampled_at": _NOW,
    "fresh_until": _NOW + 9000, "drained": False, "drained_by": "", "gpu_class": "7.5||", "capability": "7.5",
    "mig": "", "labels": "", "peers": 2, "reserved_for": "",
}  # fmt: skip
HOST = {
    "host": "studio-a", "state": "OK", "reason": "", "source": "nvml", "gpus": "GPU-studio-a-0 GPU-studio-a-1",
    "sampled_at": str(_NOW), "fresh_until": str(_NOW + 9000),
}  # fmt: skip
LEASE: dict[str, Any] = {
    "id": "job-7", "gpu_uuids": "GPU-studio-a-0", "host": "studio-a", "memory_bytes": 4 * _GIB,
    "owner": "studio-a:4711", "tenant": "default", "priority": 0, "state": "active", "created_at": _NOW - 12_000,
    "expires_at": _NOW + 18_000, "ttl_ms": 30_000, "waited_ms": 0, "job_id": "7", "pid": 4711, "pid_started": "",
    "used_bytes": 3_900_000_000, "peak_bytes": 4_000_000_000, "choice": 1, "function": "enhance",
    "host_memory_bytes": 0, "cpus_milli": 0, "revoke_at": None, "revoke_reason": "", "adopted": False,
    "registered": False, "over_bytes": 0, "idle_seconds": 0,
}  # fmt: skip
WAITER: dict[str, Any] = {
    "place": 1, "id": "job-8", "memory_bytes": 4 * _GIB, "gpus": 1, "asks": "4294967296", "host": "", "gpu": "",
    "owner": "studio-a:4712", "tenant": "default", "priority": 0, "since": _NOW - 3000, "deadline": _NOW + 57_000,
    "bypassed": 0, "job_id": "8", "labels": "", "capability": "", "mig": "", "placement": "", "function": "enhance",
    "host_memory_bytes": 0, "cpus_milli": 0, "line": "", "reserved_gpus": "", "grows": "",
}  # fmt: skip
_CARD = {
    "uuid": "GPU-studio-a-0", "host": "studio-a", "why": "leased", "need_bytes": 4 * _GIB, "free_bytes": 1_610_612_736,
    "budget_bytes": 5_905_580_032, "capacity_bytes": 5_905_580_032, "detail": "",
}  # fmt: skip
_POOL: dict[str, Any] = {"pool": "default", "now": _NOW}
_METRICS = {
    "gpu": GPU, "hardware": {"fan_percent": 61, "clock_sm_mhz": 1680},
    "processes": [{"pid": 4711, "started": "884211", "memory_bytes": 3_900_000_000, "name": "py", "lease": "job-7"}],
}  # fmt: skip

#: The answer of each operation, by method and path.
ANSWERS: dict[tuple[str, str], Any] = {
    ("get", "/api/gpu/status"): {
        **_POOL, "gpus": 6, "lending": 5, "leased_bytes": 4 * _GIB, "free_bytes": 25_000_000_000,
        "budget_bytes": 29_527_900_160, "leases": 1, "waiters": 1, "worst_state": "CRITICAL",
        "states": {"NORMAL": 5, "CRITICAL": 1},
    },
    ("get", "/api/gpu/status/all"): {**_POOL, "hosts": [HOST], "gpus": [GPU]},
    ("get", "/api/gpu/metrics"): _METRICS,
    ("get", "/api/gpu/metrics/history"): {
        "gpu": "GPU-studio-a-0",
        "samples": [{
            "stream_id": f"{_NOW}-0", "uuid": "GPU-studio-a-0", "host": "studio-a", "at": _NOW, "state": "NORMAL",
            "temperature_c": 68, "memory_used_bytes": 4 * _GIB, "memory_total_bytes": 6 * _GIB,
            "utilization_percent": 92, "power_mw": 151_000, "unmanaged_bytes": 0,
        }],
    },
    ("get", "/api/gpu/temperature/trend"): {
        "gpu": "GPU-studio-a-0", "minutes": 5.0, "samples": 4, "span_seconds": 9.0, "temperatures": [62, 64, 66, 68],
        "temperature_c": 68, "slope_c_per_minute": 40.0, "stderr_c_per_minute": 0.0, "direction": "rising",
        "reason": "a slope of 40.00 °C a minute is at least the least that counts, 0.10",
        "next_threshold": "temp_normal", "threshold_c": 75, "seconds_to_threshold": 10.5,
        "words": "GPU-studio-a-0 is at 68 °C and rises by 40.0 °C a minute; it crosses temp_normal, 75 °C, in 10 s.",
    },
    ("post", "/api/gpu/memory/allocate"): {
        **LEASE, "token": _TOKEN, "env": {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "GPU-studio-a-0"},
    },
    ("post", "/api/gpu/memory/deallocate"): {"id": "job-7", "in_time": True},
    ("get", "/api/gpu/memory/available"): {
        **_POOL, "available": {"GPU-studio-a-0": 1_610_612_736}, "largest_bytes": 1_610_612_736,
        "total_bytes": 1_610_612_736,
    },
    ("get", "/api/gpu/throttle/status"): {"state": "NORMAL", "speed": 0.8, "reason": "68 °C is NORMAL"},
    ("get", "/api/leases"): {**_POOL, "leases": [LEASE]},
    ("get", "/api/leases/{lease_id}"): LEASE,
    ("post", "/api/leases/{lease_id}/renew"): {
        "id": "job-7", "expires_at": _NOW + 30_000, "revoke_at": None, "revoke_reason": "",
    },
    ("post", "/api/leases/{lease_id}/resize"): {"id": "job-7", "memory_bytes": 6 * _GIB},
    ("post", "/api/leases/{lease_id}/revoke"): {"id": "job-7", "revoke_at": _NOW + 30_000},
    ("get", "/api/waiters"): {**_POOL, "waiters": [WAITER]},
    ("get", "/api/explain"): {
        "what": "job-8", "request": "4.0 GiB", "kind": "waiting", "place": 1, "waiters": 1, "quota_left_bytes": None,
        "settling_until": None, "now": _NOW, "cards": [_CARD], "total_cards": 1, "tenant": "default", "gpus": 1,
        "estimate_seconds": 12.0, "never": "", "ahead": 0, "fits": False, "words": ["job-8 is the next to be served."],
    },
    ("get", "/api/hosts"): [HOST],
    ("get", "/api/tenants"): [{
        "name": "default", "quota_bytes": None, "weight": 1.0, "leased_bytes": 4 * _GIB, "usage_mib_seconds": 9000.0,
        "usage_at": _NOW, "functions": {"enhance": {
            "count": 12, "mib_seconds": 98_304, "waited_ms": 400, "held_ms": 24_000, "asked_mib": 49_152,
            "peak_mib": 44_100,
        }},
    }],
    ("get", "/api/sizes"): [{"function": "enhance", "size": None, "runs": 12, "peak_bytes": 3_900_000_000}],
    ("get", "/api/fsck"): {"pool": "default", "fine": True, "differences": []},
    ("get", "/api/me"): {"scope": "operator", "authenticated": True, "actions": True},
    ("get", "/healthz"): {"ok": True},
    ("get", "/readyz"): {"ok": True},
}  # fmt: skip
#: Of everything that answers no more than that it is done.
DONE = {"done": True}

PROBLEM = {
    "type": "urn:gpubroker:problem:InsufficientMemory", "title": "There is no room now", "status": 409,
    "detail": "no room for 4.0 GiB: the most that is free on one GPU is 1.5 GiB; wait longer or ask for less",
    "code": "InsufficientMemory",
}  # fmt: skip
