"""What an agent writes: one host's samples, and its goodbye."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker import plans
from broker.calls import check_name, check_whole

if TYPE_CHECKING:
    from broker.client import Broker
    from broker.values import GpuReport, HeldLease


class Publisher:
    """One host's pen in the ledger."""

    def __init__(self, broker: Broker, host: str) -> None:
        """Write for this host.

        Raises:
            InvalidRequest: the host's name may not stand in a key.
        """
        self._broker = broker
        self.host = check_name("host", host)

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
    ) -> list[str]:
        """Publish a sample of every GPU of the host in one step; it counts as fresh for three intervals.

        Without reports the host stands in the ledger with no GPU, for the reason given.
        Returns the UUIDs that were not taken, because another host publishes them.

        Raises:
            InvalidRequest: a value is not allowed. PoolUnavailable: Redis cannot be reached.
        """
        argv: list[str | int] = [
            self.host, check_whole("interval_ms", interval_ms, 1, 3_600_000), host_state, host_reason, source,
            len(reports),
        ]  # fmt: skip
        for report in reports:
            argv += [
                check_name("gpu", report.uuid), report.index, report.name, report.state.value, report.job_state.value,
                report.reason,
            ]  # fmt: skip
            argv += [
                "" if value is None else value
                for value in (
                    report.memory_total_bytes, report.memory_used_bytes, report.memory_reserved_bytes,
                    report.unmanaged_bytes, report.temperature_c, report.utilization_percent, report.power_mw,
                    report.process_count,
                )
            ]  # fmt: skip
        return list(self._broker.call("publish_sample", *argv)[1:])

    def leave(self) -> None:
        """Say goodbye: the host's GPUs lend nothing more, and are forgotten once no lease is on them."""
        self._broker.call("leave", self.host)
