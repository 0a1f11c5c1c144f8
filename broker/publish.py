"""What an agent writes: one host's samples, and its goodbye."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker import plans
from broker.calls import check_name, check_whole
from broker.values import HostReport

if TYPE_CHECKING:
    from broker.client import Broker
    from broker.values import GpuReport, HeldLease, LeaseVerdict

#: A host that tells nothing of itself.
UNTOLD = HostReport()
#: The ledger takes so many processes of a card, and so many leases a sample.
PROCESSES_MOST, VERDICTS_MOST = 64, 1024


class Publisher:
    """One host's pen in the ledger, for one life of its agent."""

    def __init__(self, broker: Broker, host: str) -> None:
        """Write for this host.

        Raises:
            InvalidRequest: the host's name may not stand in a key.
        """
        self._broker = broker
        self.host = check_name("host", host)
        self._life = f"a{os.urandom(8).hex()}"
        self._sequence = 0
        self._heard: tuple[int, float] | None = None  # the ledger's time, and ours, at its last answer
        #: The ledger's generation as this agent was last told; 0 at the start.
        self.epoch = 0
        #: Whether the ledger took the last sample for old news: another agent may publish for this host.
        self.late = False

    def now(self) -> int | None:
        """The ledger's time in ms, by its last answer and this process's monotonic clock; ``None`` before that.

        Taken before a reading begins, it is the reading's age wherever the sample is held up.
        """
        if self._heard is None:
            return None
        told, at = self._heard
        return told + int((time.monotonic() - at) * 1000)

    def view(self, uuids: Sequence[str]) -> tuple[dict[str, list[HeldLease]], dict[str, str]]:
        """The leases on each of these GPUs, reclaiming ones too, and the pool's configuration as it is stored.

        Raises:
            PoolUnavailable: Redis cannot be reached.
        """
        return self._broker.run(plans.agent_view(self._broker.keys, uuids))

    def held(self, uuids: Sequence[str]) -> dict[str, list[HeldLease]]:
        """The leases on each of these GPUs alone."""
        return self.view(uuids)[0]

    def publish(
        self,
        reports: Sequence[GpuReport],
        interval_ms: int,
        *,
        host_state: str = "OK",
        host_reason: str = "",
        source: str = "nvml",
        host_report: HostReport = UNTOLD,
        verdicts: Sequence[LeaseVerdict] = (),
        read_at: int | None = None,
    ) -> list[str]:
        """Publish a sample of every GPU of the host in one step; it counts as fresh for three intervals.

        Without reports the host stands in the ledger with no GPU, for the reason given. ``read_at`` is ``now()`` of
        when the reading began. Returns the UUIDs that were not taken, because another host publishes them.

        Raises:
            InvalidRequest: a value is not allowed. PoolUnavailable: Redis cannot be reached.
        """
        self._sequence += 1
        argv: list[str | int] = [
            self.host, check_whole("interval_ms", interval_ms, 1, 3_600_000), host_state, host_reason, source,
            len(reports), len(verdicts[:VERDICTS_MOST]), self.epoch, self._life, self._sequence, _text(read_at),
            _text(host_report.memory_bytes), _text(host_report.cpus_milli), host_report.labels,
        ]  # fmt: skip
        for report in reports:
            argv += _report(report)
        for verdict in verdicts[:VERDICTS_MOST]:
            argv += [verdict.id, verdict.token, verdict.verdict, _text(verdict.used_bytes)]
        reply = self._broker.call("publish_sample", *argv)
        # An answer that was lost on its way is asked for again, by then the sample is its own predecessor.
        self.late = reply[0] == "late"
        told, epoch, *refused = map(str, reply[1:3] if self.late else reply)
        self._heard = int(told), time.monotonic()
        self.epoch = int(epoch)
        return refused

    def leave(self) -> None:
        """Say goodbye: the host's GPUs lend nothing more, and are forgotten once no lease is on them."""
        self._broker.call("leave", self.host)


def _text(value: int | None) -> str | int:
    return "" if value is None else value


def _report(report: GpuReport) -> list[str | int]:
    known = (
        report.memory_total_bytes, report.memory_used_bytes, report.memory_reserved_bytes, report.unmanaged_bytes,
        report.temperature_c, report.utilization_percent, report.power_mw, report.process_count,
    )  # fmt: skip
    return [
        check_name("gpu", report.uuid), report.index, report.name, report.state.value, report.job_state.value,
        report.reason, *map(_text, known), report.capability, report.mig,
        " ".join(f"{pid}:{size}" for pid, size in report.processes[:PROCESSES_MOST]),
    ]  # fmt: skip
