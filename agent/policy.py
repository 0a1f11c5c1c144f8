"""What befalls leases and processes that do not keep to what was lent, and leases on cards in trouble.

Each decision is the pool's configuration; by default over-use, idleness and orphans are told and nothing more is done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.accounting import at_work, holders
from agent.processes import ProcessTable
from agent.sources import Reading
from broker.errors import BrokerError
from broker.thresholds import Thresholds
from broker.units import format_size
from broker.values import HeldLease, LeaseVerdict

log = logging.getLogger("gpubroker.agent")

#: Asks the ledger for a lease's end: the lease, seconds that its holder has, and why.
Revoke = Callable[[HeldLease, float, str], None]
_Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a host: its cards, the leases on each, and the parents of the processes there."""

    readings: Sequence[Reading]
    held: Mapping[str, Sequence[HeldLease]]
    parents: Mapping[int, int]

    @property
    def leases(self) -> dict[str, HeldLease]:
        """Every lease once."""
        return {lease.id: lease for on_card in self.held.values() for lease in on_card}


class Policy:
    """The agent's hand: it ends leases through the ledger, and processes by their pid and when they began."""

    def __init__(self, revoke: Revoke, table: ProcessTable, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing was seen yet."""
        self._revoke, self._table, self._clock = revoke, table, clock
        self._over: dict[_Key, float] = {}
        self._idle: dict[_Key, float] = {}
        self._told: set[tuple[str, int, str]] = set()  # what each lease was asked to end for
        self._wards: dict[tuple[int, str], tuple[str, float]] = {}  # orphans: their lease, and since when it is over

    def idle(self, look: Look, verdicts: Sequence[LeaseVerdict], limits: Thresholds) -> list[LeaseVerdict]:
        """The verdicts, with for how long each lease's cards have done nothing."""
        now, working = self._clock(), at_work(look.readings, look.held, look.parents)
        since: dict[_Key, float] = {}
        told = []
        for verdict in verdicts:
            key, work = (verdict.id, verdict.token), working.get(verdict.id)
            active = look.leases[verdict.id].state == "active"
            if work is None or not active:
                told.append(verdict)
                continue
            if not work:
                since[key] = self._idle.get(key, now)
            lasted = now - since.get(key, now)
            idle = not work and 0 < limits.idle_seconds <= lasted
            told.append(replace(verdict, idle_seconds=max(1, int(lasted)) if idle else 0))
        self._idle = since
        return told

    def act(
        self, look: Look, verdicts: Sequence[LeaseVerdict], limits: Callable[[str | None], Thresholds],
        restart: Mapping[str, str],
    ) -> None:  # fmt: skip
        """Do what the configuration says; ``restart`` names the cards whose jobs should start again, and why."""
        live = {(lease.id, lease.token) for lease in look.leases.values()}
        self._told = {told for told in self._told if told[:2] in live}
        for reading in look.readings:
            own = limits(reading.uuid)
            heat = reading.temperature_c
            if heat is not None and heat >= own.temp_critical:
                why = f"GPU {reading.uuid} is at {heat} °C"
                self._end_all(look.held.get(reading.uuid, ()), own.critical_grace_seconds, "heat", why)
            if reading.uuid in restart:
                self._end_all(look.held.get(reading.uuid, ()), 0, "xid", restart[reading.uuid])
        self._overuse(look, verdicts, limits(None))
        self._orphans(look, limits(None))

    def _end_all(self, leases: Collection[HeldLease], grace: float, cause: str, why: str) -> None:
        for lease in leases:
            self._end(lease, grace, cause, why)

    def _end(self, lease: HeldLease, grace: float, cause: str, why: str) -> None:
        """Ask for a lease's end, once for each cause."""
        told = (lease.id, lease.token, cause)
        if lease.state != "active" or told in self._told:
            return
        try:
            self._revoke(lease, grace, why)
        except BrokerError as error:
            log.warning("event=revoke_failed lease=%s error=%r", lease.id, str(error))  # tried again at the next look
        else:
            self._told.add(told)
            log.warning("event=lease_revoked lease=%s grace=%g reason=%r", lease.id, grace, why)

    def _overuse(self, look: Look, verdicts: Sequence[LeaseVerdict], limits: Thresholds) -> None:
        now, since = self._clock(), dict[_Key, float]()
        for verdict in verdicts:
            if not verdict.over_bytes:
                continue
            key, lease = (verdict.id, verdict.token), look.leases[verdict.id]
            since[key] = self._over.get(key, now)
            why = f"it takes {format_size(verdict.over_bytes)} beyond its {format_size(lease.memory_bytes)}"
            if key not in self._over:
                log.warning("event=overuse lease=%s reason=%r", lease.id, why)
            if limits.overuse_policy == "revoke":
                self._end(lease, limits.overuse_grace_seconds, "overuse", why)
            elif limits.overuse_policy == "kill" and now - since[key] >= limits.overuse_grace_seconds:
                self._kill(look, lease, why)
        self._over = since

    def _kill(self, look: Look, lease: HeldLease, why: str) -> None:
        for reading in look.readings:
            for process, of in holders(reading, look.held.get(reading.uuid, ()), look.parents):
                seen = self._table.look(process.pid) if of is not None and of.id == lease.id else None
                if seen is not None and self._table.kill(seen.pid, seen.started):
                    log.warning("event=killed pid=%d lease=%s reason=%r", seen.pid, lease.id, why)

    def _orphans(self, look: Look, limits: Thresholds) -> None:
        """Processes whose lease ran out or was revoked, and that still have memory of a card.

        One whose holder gave it back is none: it may keep a context of the card for its next lease.
        """
        now, wards = self._clock(), dict[tuple[int, str], tuple[str, float]]()
        for reading in look.readings:
            for process, lease in holders(reading, look.held.get(reading.uuid, ()), look.parents):
                seen = self._table.look(process.pid)
                if seen is None:
                    continue
                key = seen.pid, seen.started
                known = self._wards.get(key)
                if lease is not None and lease.state == "reclaiming" and known is None:
                    log.warning("event=orphan pid=%d lease=%s gpu=%s", seen.pid, lease.id, reading.uuid)
                    wards[key] = lease.id, now
                elif known is not None and (lease is None or lease.state == "reclaiming"):
                    wards[key] = known
        self._wards = wards
        if limits.orphan_policy == "kill":
            for (pid, started), (name, since) in wards.items():
                if now - since >= limits.orphan_grace_seconds and self._table.kill(pid, started):
                    log.warning("event=killed pid=%d lease=%s reason='its lease is over'", pid, name)
