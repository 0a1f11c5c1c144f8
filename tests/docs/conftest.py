"""A pool with simulated cards, as processes, for what the documentation has people run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker import Broker, this_host
from broker.stack import Stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server of its own and an agent of this host with two simulated cards of 6 GiB, looked at every half second."""
    with Stack(tmp_path_factory.mktemp("stack"), persist=False) as running:
        running.broker.update_config(monitor_interval=0.5, throttle_cooldown_seconds=0)
        running.agent("agent", host=this_host(), simulate="2x6GiB")
        # A trend takes three samples.
        running.wait_ready(_has_looked_thrice, 60, "the agent")
        yield running


def _has_looked_thrice(broker: Broker) -> bool:
    gpus = broker.gpus()
    return bool(gpus) and all(gpu.lends and len(broker.history(gpu.uuid)) >= 3 for gpu in gpus)
