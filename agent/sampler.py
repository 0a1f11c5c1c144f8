"""The loop: read, judge, publish, act, every ``monitor_interval``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue

from agent.accounting import holders, pids, verdicts
from agent.health import Finding
from agent.host import HostWatch
from agent.host import report as host_report_of
from agent.judging import Around, Judge
from agent.mapping import JobMapping, jobs_on
from agent.policy import Look, Policy
from agent.processes import ProcessTable
from agent.sources import NoGpuError, Reading, Source
from broker import plans
from broker.client import Broker
from broker.errors import BrokerError, InvalidRequest, PoolAway, PoolUnavailable
from broker.publish import HostTaken, Publisher
from broker.thresholds import Thresholds
from broker.units import MIB
from broker.values import GpuReport, HeldLease, HostReport, LeaseVerdict, ListedProcess, State

log = logging.getLogger("gpubroker.agent")

_WITHOUT = "; `gpubroker agent --simulate 2x6GiB` shows how it works without"
#: What cards say while the pool's setting ``monitoring`` is 0.
UNWATCHED = "monitoring is stopped; `gpubroker config set monitoring=` starts it again"
#: Hears of each look: when it began, what was read, and why nothing was.
Witness = Callable[[float, Sequence[Reading], str], None]


class Sampler:
    """One host's agent, from its first reading to its goodbye."""

    def __init__(
        self, broker: Broker, host: str, source: Source, host_report: HostReport | None = None, *,
        folder: Path = Path(), yield_to: Sequence[str] = (), witness: Witness | None = None,
        alive: Callable[[str, float], None] | None = None, mapping: JobMapping | None = None,
    ) -> None:  # fmt: skip
        """Watch ``source`` and publish as ``host``, which tells of itself what ``host_report`` says.

        ``folder`` is where this host's jobs write: its room is told. ``yield_to`` names programs that want the cards
        for themselves. ``witness`` hears of each look; ``alive`` of each that came to its end, in words, and of the
        seconds to the next; ``mapping`` of the jobs on each card.
        """
        self._host_report = host_report if host_report is not None else host_report_of()
        self._publisher = Publisher(broker, host)
        self._source, self._yield_to = source, tuple(yield_to)
        self._witness, self._alive, self._mapping = witness, alive, mapping
        self._table = ProcessTable()
        self._judge, self._host = Judge(), HostWatch(folder)
        self._policy = Policy(self._publisher.revoke, self._table)
        # Not an Event: setting one in a signal handler deadlocks if the signal came while it was being waited for.
        self._stop: SimpleQueue[None] = SimpleQueue()
        self._stored: dict[str, str] = {}
        self._limits_of: dict[str | None, Thresholds] = {}
        self._held: dict[str, list[HeldLease]] = {}
        self._resumed: set[str] = set()  # cards whose marks of before were looked up
        self._last: dict[str, GpuReport] = {}  # what was told of each card
        self._away = False
        self._asked = False  # whether the pool's configuration was ever read
        self._troubles: dict[str, str] = {}

    def run(self) -> None:
        """Sample until stopped, then say goodbye.

        What nobody foresaw ends the agent: its cards then read UNAVAILABLE by their age, and whoever started it hears
        of it.

        Raises:
            HostTaken: another agent publishes for this host.
        """
        log.info("event=agent_started host=%s source=%s", self._publisher.host, self._source.name)
        pause = 0.0
        try:
            while not self._stopped_within(pause):
                began = time.monotonic()
                try:
                    self.sample()
                    self._note("ledger", "")
                except HostTaken:
                    raise
                except BrokerError as error:
                    self._note("ledger", f"event=publish_failed error={str(error)!r}")
                if self._alive is not None:
                    self._alive(self._status(), self._limits(None).monitor_interval)
                pause = max(0.0, self._limits(None).monitor_interval - (time.monotonic() - began))
        except HostTaken:
            self._source.close()  # the other one's cards are not to be closed by a goodbye
            raise
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
        """One look at everything, published; then what the pool's configuration asks for is done.

        Raises:
            BrokerError: the ledger cannot be reached, or refused the sample. What could not be sent is sent later.
        """
        read_at, began = self._publisher.now(), time.time()
        self._away = False
        if not self._watching():
            self._publish_unwatched(read_at)
            return
        readings, why = self._read()
        if self._witness is not None:
            self._witness(began, readings, why)
        # Hardware first, leases after: a lease is older than its process's memory, so that no holder's memory is ever
        # taken for a stranger's.
        self._view([reading.uuid for reading in readings])
        self._map(jobs_on(readings, self._held))
        pool = self._limits(None)
        if not pool.monitoring:  # just now: what was read is not told any more
            self._publish_unwatched(read_at)
            return
        said = self._host.vitals()
        state, state_reason = self._host.judge(said, pool, time.monotonic())
        held, lives = self._table.locate(self._held)
        holding = [lease.pid or 0 for leases in held.values() for lease in leases]
        parents = self._table.parents((pid for reading in readings for pid in pids(reading.processes)), holding)
        look = Look(readings, held, parents)
        wanted = self._wanted(readings, pool)
        listed = {reading.uuid: self._listed(reading, look) for reading in readings}
        judged = [
            self._report_alone(
                reading, held, Around(parents, state, state_reason, wanted.get(reading.uuid, ()), listed)
            )
            for reading in readings
        ]
        seen = self._verdicts(look, lives, pool)
        try:
            refused = self._publisher.publish(
                [report for report, _ in judged],
                max(1, round(pool.monitor_interval * 1000)),
                host_state="UNAVAILABLE" if why else "OK",
                host_reason=(why and why + _WITHOUT) or state_reason,
                source=self._source.name,
                host_report=replace(self._host_report, vitals=said),
                verdicts=seen,
                read_at=read_at,
                away=self._away,
            )
        finally:
            self._source.published({report.uuid: report.job_state for report, _ in judged})
            self._last = {report.uuid: report for report, _ in judged}
        self._note("monitoring", "")
        self._note("gpus", f"event=no_gpu reason={why!r}" if why else "")
        gpus = ",".join(refused)
        self._note("owner", f"event=gpu_refused gpus={gpus} reason='another host publishes them'" if gpus else "")
        self._policy.act(look, seen, self._limits, {r.uuid: f.why_restart for r, f in judged if f.restart})

    def _watching(self) -> bool:
        """Whether the pool wants its hardware read: asked before the first reading, and before each while it does not.

        Raises:
            PoolAway: nobody can tell, so nothing is read.
        """
        if not self._asked or not self._limits(None).monitoring:
            self._view([])
            if not self._asked:
                raise PoolAway(f"the ledger has not told yet whether {self._publisher.host} is to be watched")
        return bool(self._limits(None).monitoring)

    def _publish_unwatched(self, read_at: int | None) -> None:
        """The agent lives and has not looked: no card lends on the strength of what was seen before."""
        self._note("monitoring", "event=monitoring_stopped")
        if not self._last and not self._away:
            self._last = self._publisher.told()
        reports = [
            GpuReport(
                last.uuid, last.index, last.name, State.UNAVAILABLE, State.UNAVAILABLE, UNWATCHED,
                capability=last.capability, mig=last.mig, marks=last.marks,
            )
            for last in self._last.values()
        ]  # fmt: skip
        self._publisher.publish(
            reports, max(1, round(self._limits(None).monitor_interval * 1000)), host_state="UNAVAILABLE",
            host_reason=UNWATCHED, source=self._source.name, host_report=self._host_report, read_at=read_at,
            away=self._away,
        )  # fmt: skip

    def _read(self) -> tuple[list[Reading], str]:
        """The readings, or none and why."""
        try:
            return self._source.read(self._last_held), ""
        except NoGpuError as error:
            self._judge.forget()
            return [], str(error)

    def _last_held(self, uuids: Sequence[str]) -> Mapping[str, Sequence[HeldLease]]:
        """The leases of now, or, without a ledger, those of last time: the work on the cards goes on as well."""
        try:
            self._held = self._publisher.held(uuids)
        except PoolUnavailable as error:
            self._away = True
            log.debug("event=leases_unknown error=%r", str(error))  # publishing will say so aloud
        return self._held

    def _view(self, uuids: Sequence[str]) -> None:
        """Leases and configuration of now; without a ledger those of last time, and the sample is kept for later."""
        if self._away:
            return
        try:
            held, stored = self._publisher.view(uuids)
            new = [uuid for uuid in uuids if uuid not in self._resumed]
            marks = self._publisher.marks(new) if new else {}
        except PoolUnavailable as error:
            self._away = True
            log.debug("event=view_failed error=%r", str(error))
            return
        self._held, self._asked = held, True
        self._take_config(stored, uuids)
        for uuid, (drained_by, why) in marks.items():
            self._judge.resume(uuid, drained_by, why)
            self._resumed.add(uuid)

    def _take_config(self, stored: dict[str, str], uuids: Sequence[str]) -> None:
        """Use the pool's configuration of now; one that somebody wrote by hand and that is wrong changes nothing."""
        if stored == self._stored and set(uuids) <= set(self._limits_of):
            return
        try:
            limits = {uuid: Thresholds.parse(plans.effective(stored, uuid)) for uuid in (None, *uuids)}
        except InvalidRequest as error:
            self._note("config", f"event=config_refused error={str(error)!r}")
        else:
            self._stored, self._limits_of = stored, limits
            self._note("config", "")

    def _map(self, jobs: Mapping[int, Sequence[str]]) -> None:
        """Tell others which jobs are on which card; that they cannot be told is no reason not to publish."""
        if self._mapping is not None:
            try:
                self._mapping.tell(jobs)
                self._note("job_mapping", "")
            except OSError as error:
                self._note("job_mapping", f"event=job_mapping_failed error={str(error)!r}")

    def _limits(self, uuid: str | None) -> Thresholds:
        if uuid not in self._limits_of:
            self._limits_of[uuid] = Thresholds.parse(plans.effective(self._stored, uuid))
        return self._limits_of[uuid]

    def _wanted(self, readings: Sequence[Reading], pool: Thresholds) -> dict[str, list[str]]:
        """Which people's programs want each card: those it runs on, or all cards while it runs on none yet."""
        names = {*self._yield_to, *filter(None, pool.yield_to.split(","))}
        running = {name: found for name, found in self._table.programs(names).items() if found}
        wanted: dict[str, list[str]] = {}
        for name, own in running.items():
            on = [reading.uuid for reading in readings if own & set(pids(reading.processes))]
            for uuid in on or [reading.uuid for reading in readings]:
                wanted.setdefault(uuid, []).append(name)
        return wanted

    def _listed(self, reading: Reading, look: Look) -> tuple[ListedProcess, ...]:
        found = []
        for process, lease in holders(reading, look.held.get(reading.uuid, ()), look.parents):
            seen = self._table.look(process.pid)
            started, name = (seen.started, seen.name) if seen is not None else ("", "")
            found.append(ListedProcess(process.pid, started, process.memory_bytes, name, lease.id if lease else ""))
        return tuple(found)

    def _verdicts(self, look: Look, lives: Mapping[str, str], pool: Thresholds) -> list[LeaseVerdict]:
        if not self._table.tells:
            return []
        found = verdicts(look.readings, look.held, look.parents, lives, pool.overuse_tolerance_mb * MIB)
        return self._policy.idle(look, found, pool)

    def _report_alone(
        self, reading: Reading, held: Mapping[str, Sequence[HeldLease]], around: Around
    ) -> tuple[GpuReport, Finding]:
        """The report; a reading that it cannot be made of is this card's trouble, not the others'."""
        if not self._limits(reading.uuid).monitoring:  # of this one card, by somebody's own hand
            state = State.UNAVAILABLE
            return GpuReport(reading.uuid, reading.index, reading.name, state, state, UNWATCHED), Finding(
                False, "", False, ()
            )
        try:
            return self._judge.report(reading, held.get(reading.uuid, ()), self._limits(reading.uuid), around)
        except Exception as error:
            log.exception("event=report_failed gpu=%s", reading.uuid)
            why = f"its reading cannot be judged: {error!r}"
            lost = GpuReport(reading.uuid, reading.index, reading.name, State.UNAVAILABLE, State.UNAVAILABLE, why)
            return lost, Finding(False, "", False, ())

    def _status(self) -> str:
        """A line for people who look at the service."""
        waiting = f", {self._publisher.unsent} samples wait for the ledger" if self._publisher.unsent else ""
        return f"{len(self._limits_of) - 1} GPUs of {self._publisher.host}{waiting}"

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
        self._map({})
        log.info("event=agent_left host=%s", self._publisher.host)
