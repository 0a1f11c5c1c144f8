"""The loop: read, judge, publish, every ``monitor_interval``."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from agent.accounting import pids, unmanaged_bytes
from agent.processes import parents
from agent.sources import NoGpuError, Reading, Source
from agent.sources.simulated import SimulatedSource
from broker.client import Broker
from broker.errors import BrokerError, PoolUnavailable
from broker.plans import effective
from broker.publish import Publisher
from broker.state import Standing, judge, memory_band, reason, temperature_band, worse
from broker.thresholds import Thresholds
from broker.values import GpuReport, HeldLease, State

log = logging.getLogger("gpubroker.agent")


class Sampler:
    """One host's agent, from its first reading to its goodbye."""

    def __init__(self, broker: Broker, host: str, source: Source) -> None:
        """Watch ``source`` and publish as ``host``."""
        self._broker = broker
        self._publisher = Publisher(broker, host)
        self._source = source
        self._stop = threading.Event()
        self._stored: dict[str, str] = {}
        self._held: dict[str, list[HeldLease]] = {}
        self._standings: dict[str, tuple[Standing, Standing]] = {}
        self._trouble = ""
        self._uuids: list[str] = source.uuids if isinstance(source, SimulatedSource) else []

    def run(self) -> None:
        """Sample until stopped, then say goodbye."""
        log.info("event=agent_started host=%s source=%s", self._publisher.host, self._source.name)
        while not self._stop.is_set():
            began = time.monotonic()
            interval = self.sample()
            self._stop.wait(max(0.0, interval - (time.monotonic() - began)))
        self._leave()

    def stop(self) -> None:
        """End after the sample under way. Safe in a signal handler."""
        self._stop.set()

    def sample(self) -> float:
        """One look at everything; returns the seconds until the next."""
        readings, why = self._read()
        try:
            self._ask_ledger([reading.uuid for reading in readings])
            interval = Thresholds.parse(effective(self._stored, None)).monitor_interval
            reports = [self._report(reading) for reading in readings]
            refused = self._publisher.publish(
                reports, max(1, round(interval * 1000)), host_state="UNAVAILABLE" if why else "OK", host_reason=why,
                source=self._source.name,
            )  # fmt: skip
        except BrokerError as error:
            self._note(f"event=publish_failed error={str(error)!r}")
            return Thresholds.parse(effective(self._stored, None)).monitor_interval
        self._uuids = [report.uuid for report in reports]
        if isinstance(self._source, SimulatedSource):
            self._source.obey({report.uuid: report.job_state for report in reports})
        if refused:
            self._note(f"event=gpu_refused gpus={','.join(refused)} reason='another host publishes them'")
        else:
            self._note(f"event=no_gpu reason={why!r}" if why else "")
        return interval

    def _read(self) -> tuple[list[Reading], str]:
        """The readings, or none and why. Hardware first, leases after: a lease is older than its process's memory, so
        no holder's memory is taken for a stranger's. A simulated host's memory follows its leases: there it is the other
        way round."""
        if isinstance(self._source, SimulatedSource):
            try:
                self._ask_ledger(self._uuids)
            except PoolUnavailable:
                pass  # publishing will say so
        try:
            return self._source.read(self._held), ""
        except NoGpuError as error:
            return [], f"{error}; `gpubroker agent --simulate 2x6GiB` shows how it works without"

    def _ask_ledger(self, uuids: Sequence[str]) -> None:
        self._held = self._publisher.held(uuids)
        self._stored = self._broker.run(_stored_config(self._broker))

    def _report(self, reading: Reading) -> GpuReport:
        limits = Thresholds.parse(effective(self._stored, reading.uuid))
        held = self._held.get(reading.uuid, [])
        unmanaged = unmanaged_bytes(reading, held, parents(pids(reading.processes)))
        fault = reading.fault or ("" if unmanaged is not None else "its memory cannot be read")
        total, used = reading.memory_total_bytes, reading.memory_used_bytes
        percent = None if used is None or not total else 100 * used / total
        heat = self._heat(reading, limits, fault)
        whole = worse(heat, State.UNAVAILABLE if percent is None else memory_band(percent, limits))
        job, shown = self._judge(reading.uuid, heat, whole, limits)
        return GpuReport(
            uuid=reading.uuid,
            index=reading.index,
            name=reading.name,
            state=shown.state,
            job_state=job.state,
            reason=fault or reason(shown, whole, reading.temperature_c, percent, limits),
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_reserved_bytes=reading.memory_reserved_bytes,
            unmanaged_bytes=unmanaged,
            temperature_c=reading.temperature_c,
            utilization_percent=reading.utilization_percent,
            power_mw=reading.power_mw,
            process_count=None if reading.processes is None else len(reading.processes),
        )

    def _heat(self, reading: Reading, limits: Thresholds, fault: str) -> State:
        """Temperature and health alone. A card that tells no temperature may be any: it works at the middle speed."""
        if fault:
            return State.UNAVAILABLE
        if reading.temperature_c is None:
            return State.THROTTLED
        return temperature_band(reading.temperature_c, limits)

    def _judge(self, uuid: str, heat: State, whole: State, limits: Thresholds) -> tuple[Standing, Standing]:
        now = time.monotonic()
        job, shown = self._standings.get(uuid, (None, None))
        self._standings[uuid] = judge(job, heat, limits, now), judge(shown, whole, limits, now)
        return self._standings[uuid]

    def _note(self, trouble: str) -> None:
        """Log a trouble once, and its end once."""
        if trouble != self._trouble:
            if trouble:
                log.warning("%s host=%s", trouble, self._publisher.host)
            else:
                log.info("event=recovered host=%s", self._publisher.host)
        self._trouble = trouble

    def _leave(self) -> None:
        try:
            self._publisher.leave()
        except BrokerError as error:
            log.warning("event=leave_failed error=%r", str(error))  # its cards read UNAVAILABLE by their age
        self._source.close()
        log.info("event=agent_left host=%s", self._publisher.host)


def _stored_config(broker: Broker):  # type: ignore[no-untyped-def]
    (stored,) = yield [("HGETALL", broker.keys.config)]
    return stored
