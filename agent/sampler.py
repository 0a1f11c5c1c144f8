"""The loop: read, judge, publish, every ``monitor_interval``."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue

from agent.accounting import pids, strangers, unmanaged_bytes, verdicts
from agent.host import report
from agent.processes import parents, visible
from agent.sources import NoGpuError, Reading, Source
from broker import plans
from broker.client import Broker
from broker.errors import BrokerError, InvalidRequest, PoolUnavailable
from broker.process import began
from broker.publish import Publisher
from broker.state import Standing, judge, memory_band, reason, temperature_band, worse
from broker.thresholds import Thresholds
from broker.values import GpuReport, HeldLease, HostReport, State

log = logging.getLogger("gpubroker.agent")


class Sampler:
    """One host's agent, from its first reading to its goodbye."""

    def __init__(self, broker: Broker, host: str, source: Source, host_report: HostReport | None = None) -> None:
        """Watch ``source`` and publish as ``host``, which tells of itself what ``host_report`` says."""
        self._host_report = host_report if host_report is not None else report()
        self._publisher = Publisher(broker, host)
        self._source = source
        # Not an Event: setting one in a signal handler deadlocks if the signal came while it was being waited for.
        self._stop: SimpleQueue[None] = SimpleQueue()
        self._stored: dict[str, str] = {}
        self._held: dict[str, list[HeldLease]] = {}
        self._standings: dict[str, tuple[Standing, Standing]] = {}
        self._troubles: dict[str, str] = {}

    def run(self) -> None:
        """Sample until stopped, then say goodbye.

        What nobody foresaw ends the agent: its cards then read UNAVAILABLE by their age, and whoever started it hears
        of it.
        """
        log.info("event=agent_started host=%s source=%s", self._publisher.host, self._source.name)
        pause = 0.0
        while not self._stopped_within(pause):
            began = time.monotonic()
            try:
                self.sample()
                self._note("ledger", "")
            except BrokerError as error:
                self._note("ledger", f"event=publish_failed error={str(error)!r}")
            pause = max(0.0, self._limits(None).monitor_interval - (time.monotonic() - began))
        self._leave()

    def stop(self) -> None:
        """End after the sample under way. Safe in a signal handler."""
        self._stop.put(None)

    def _stopped_within(self, seconds: float) -> bool:
        try:
            self._stop.get(timeout=seconds)
        except Empty:
            return False
        return True

    def sample(self) -> None:
        """One look at everything, published.

        Raises:
            BrokerError: the ledger cannot be reached, or refused the sample; nothing was published.
        """
        read_at = self._publisher.now()
        readings, why = self._read()
        # Hardware first, leases after: a lease is older than its process's memory, so that no holder's memory is ever
        # taken for a stranger's.
        self._held, stored = self._publisher.view([reading.uuid for reading in readings])
        self._take_config(stored, [reading.uuid for reading in readings])
        family = parents(pid for reading in readings for pid in pids(reading.processes))
        reports = [self._report_alone(reading, family) for reading in readings]
        refused = self._publisher.publish(
            reports,
            max(1, round(self._limits(None).monitor_interval * 1000)),
            host_state="UNAVAILABLE" if why else "OK",
            host_reason=why,
            source=self._source.name,
            host_report=self._host_report,
            verdicts=verdicts(readings, self._held, family, began) if visible() else (),
            read_at=read_at,
        )
        self._source.published({report.uuid: report.job_state for report in reports})
        self._note("gpus", f"event=no_gpu reason={why!r}" if why else "")
        late = "event=sample_late reason='the ledger has newer news of this host: does another agent publish for it?'"
        self._note("late", late if self._publisher.late else "")
        gpus = ",".join(refused)
        self._note("owner", f"event=gpu_refused gpus={gpus} reason='another host publishes them'" if gpus else "")

    def _read(self) -> tuple[list[Reading], str]:
        """The readings, or none and why."""
        try:
            return self._source.read(self._last_held), ""
        except NoGpuError as error:
            self._standings.clear()  # a card that was not there has no past
            return [], f"{error}; `gpubroker agent --simulate 2x6GiB` shows how it works without"

    def _last_held(self, uuids: Sequence[str]) -> Mapping[str, Sequence[HeldLease]]:
        """The leases of now, or, without a ledger, those of last time: the work on the cards goes on as well."""
        try:
            self._held = self._publisher.held(uuids)
        except PoolUnavailable as error:
            log.debug("event=leases_unknown error=%r", str(error))  # publishing will say so aloud
        return self._held

    def _take_config(self, stored: dict[str, str], uuids: Sequence[str]) -> None:
        """Use the pool's configuration of now; one that somebody wrote by hand and that is wrong changes nothing."""
        try:
            for uuid in (None, *uuids):
                Thresholds.parse(plans.effective(stored, uuid))
        except InvalidRequest as error:
            self._note("config", f"event=config_refused error={str(error)!r}")
        else:
            self._stored = stored
            self._note("config", "")

    def _limits(self, uuid: str | None) -> Thresholds:
        return Thresholds.parse(plans.effective(self._stored, uuid))

    def _report_alone(self, reading: Reading, family: Mapping[int, int]) -> GpuReport:
        """The report; a reading that it cannot be made of is this card's trouble, not the others'."""
        try:
            return self._report(reading, family)
        except Exception as error:
            log.exception("event=report_failed gpu=%s", reading.uuid)
            why = f"its reading cannot be judged: {error!r}"
            return GpuReport(reading.uuid, reading.index, reading.name, State.UNAVAILABLE, State.UNAVAILABLE, why)

    def _report(self, reading: Reading, family: Mapping[int, int]) -> GpuReport:
        limits = self._limits(reading.uuid)
        held = self._held.get(reading.uuid, [])
        unmanaged = unmanaged_bytes(reading, held, family)
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
            capability=reading.capability,
            mig=reading.mig,
            processes=strangers(reading, held, family),
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

    def _note(self, about: str, trouble: str) -> None:
        """Log a trouble once, and its end once."""
        if trouble != self._troubles.get(about, ""):
            if trouble:
                log.warning("%s host=%s", trouble, self._publisher.host)
            else:
                log.info("event=recovered about=%s host=%s", about, self._publisher.host)
        self._troubles[about] = trouble

    def _leave(self) -> None:
        try:
            self._publisher.leave()
        except BrokerError as error:
            log.warning("event=leave_failed error=%r", str(error))  # its cards read UNAVAILABLE by their age
        self._source.close()
        log.info("event=agent_left host=%s", self._publisher.host)
