"""A day in fast motion: nothing grows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from broker import Broker
from tests.agent.conftest import Cards

#: Looks until everything has its size, and after that: the whole day has 28,800, which `benchmarks/agent` can play.
SETTLE, LOOKS = 500, 1500
#: Bytes that a process may be larger by at the end: allocators breathe.
BREATH = 768 << 10

#: An agent's process that looks as fast as it can: heat comes and goes, processes and leases too, and a card is lost.
_DAY = """
import json, os, sys
from pathlib import Path
import psutil
from agent.sampler import Sampler
from agent.sources.nvml import NvmlSource
from broker import Broker
from tests.agent.conftest import GIB, Cards

settle, looks = map(int, sys.argv[2:])
broker, cards, source = Broker.from_url(sys.argv[1]), Cards(Path(os.environ["NVML_MOCK"])), NvmlSource()
sampler, own, lease, told = Sampler(broker, "h1", source), psutil.Process(), None, []
for number in range(1, settle + looks + 1):
    cards.set({"0.temp": 50 + number % 30, "1.lost": 15 if number % 97 == 0 else None,
               "0.procs": f"{os.getpid()}:{GIB},{2 + number % 1000}:{GIB // 8}"})
    if number % 7 == 0 and broker.available().get("GPU-mock-0", 0) > GIB:
        lease = broker.acquire("1GiB", gpu="GPU-mock-0", pid=os.getpid(), ttl=600)
    elif lease is not None and number % 7 == 3:
        lease.release()
        lease = None
    sampler.sample()
    if number in (settle, settle + looks):
        both = own, psutil.Process(source._child.process.pid)
        told.append([[one.memory_info().rss, one.num_fds()] for one in both])
print(json.dumps(told))
source.close()
"""


def test_a_day_of_samples_leaves_nothing_behind(
    broker: Broker, redis_url: str, nvml_library: Path, mock_cards: Cards
) -> None:
    broker.update_config(history_size=50)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(nvml_library), "NVML_MOCK": str(mock_cards.path)}
    done = subprocess.run(
        [sys.executable, "-c", _DAY, redis_url, str(SETTLE), str(LOOKS)],
        env=environment, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    before, after = json.loads(done.stdout)
    for who, (rss, files), (rss_after, files_after) in zip(("agent", "reader of NVML"), before, after, strict=True):
        assert rss_after - rss < BREATH, f"the {who} grew by {rss_after - rss} bytes in {LOOKS} looks"
        assert files_after == files
    # Trimmed about, in whole nodes of a stream: a hundred entries each.
    assert broker.redis.xlen(broker.keys.metrics("h1")) <= 2 * 50 + 2 * 100
