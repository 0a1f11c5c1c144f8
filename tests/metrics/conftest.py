"""An exposition, read back by the parsers of Prometheus's own library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from broker import Broker
from broker.metrics import Exporter, exporter
from tests.rq.conftest import stage

__all__ = ["stage"]

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Told:
    """The samples of one exposition."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self.families = {family.name: family for family in families}
        self._samples = [sample for family in families for sample in family.samples]
        assert len(self._samples) == len({(one.name, *sorted(one.labels.items())) for one in self._samples})

    @property
    def names(self) -> set[str]:
        return {sample.name for sample in self._samples}

    def all(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """Every sample of that name with these labels among its own."""
        own = (one for one in self._samples if one.name == name)
        return [(one.labels, one.value) for one in own if labels.items() <= one.labels.items()]

    def one(self, name: str, **labels: str) -> float:
        """The value of the one sample of that name with these labels."""
        found = self.all(name, **labels)
        assert len(found) == 1, (name, labels, found)
        return found[0][1]


def told(body: bytes, *, openmetrics: bool = False) -> Told:
    """What an exposition says."""
    return Told(list((read_openmetrics if openmetrics else read_text)(body.decode())))


class Seen(NamedTuple):
    """An exporter, and what it says now."""

    exporter: Exporter

    def __call__(self) -> Told:
        return told(self.exporter.render())


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scrape looks anew."""
    monkeypatch.setattr(exporter, "FRESH_SECONDS", 0.0)


@pytest.fixture
def scrape(broker: Broker, no_rest: None) -> Callable[[], Told]:
    """Scrapes the pool by one exporter, again and again; its counters count from before the test on."""
    return Seen(Exporter(broker, after="0", fsck_seconds=0))
