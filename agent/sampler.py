"""The loop: read, judge, publish, every ``monitor_interval``."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence

from agent.accounting import pids, unmanaged_bytes
from agent.processes import parents
from agent.sources import NoGpuError, Reading, Source
from broker import plans
from broker.client import Broker
from broker.errors import BrokerError, InvalidRequest, PoolUnavailable
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
            # Hardware first, leases after: a lease is older than its process's memory, so that no holder's memory is
            # ever taken for a stranger's.
            self._held = self._publisher.held([reading.uuid for reading in readings])
            self._take_config([reading.uuid for reading in readings])
            reports = [self._report(reading) for reading in readings]
            refused = self._publisher.publish(
                reports,
                max(1, round(self._interval() * 1000)),
                host_state="UNAVAILABLE" if why else "OK",
                host_reason=why,
                source=self._source.name,
            )
        except BrokerError as error:
            self._note(f"event=publish_failed error={str(error)!r}")
            return self._interval()
        self._source.published({report.uuid: report.job_state for report in reports})
        if refused:
            self._note(f"event=gpu_refused gpus={','.join(refused)} reason='another host publishes them'")
        else:
            self._note(f"event=no_gpu reason={why!r}" if why else "")
        return self._interval()

    def _read(self) -> tuple[list[Reading], str]:
        """The readings, or none and why."""
        try:
            return self._source.read(self._last_held), ""
        except NoGpuError as error:
            return [], f"{error}; `gpubroker agent --simulate 2x6GiB` shows how it works without"

    def _last_held(self, uuids: Sequence[str]) -> Mapping[str, Sequence[HeldLease]]:
        """The leases of now, or, without a ledger, those of last time: the work on the cards goes on as well."""
        try:
            self._held = self._publisher.held(uuids)
        except PoolUnavailable as error:
            log.debug("event=leases_unknown error=%r", str(error))  # publishing will say so aloud
        return self._held

    def _take_config(self, uuids: Sequence[str]) -> None:
        """Use the pool's configuration of now; one that somebody wrote by hand and that is wrong changes nothing."""
        stored = self._broker.run(plans.stored_config(self._broker.keys))
        try:
            for uuid in (None, *uuids):
                Thresholds.parse(plans.effective(stored, uuid))
        except InvalidRequest as error:
            log.warning("event=config_refused error=%r", str(error))
        else:
            self._stored = stored

    def _limits(self, uuid: str | None) -> Thresholds:
        return Thresholds.parse(plans.effective(self._stored, uuid))

    def _interval(self) -> float:
        return self._limits(None).monitor_interval

    def _report(self, reading: Reading) -> GpuReport:
        limits = self._limits(reading.uuid)
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
