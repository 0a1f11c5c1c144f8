"""What an agent writes: one host's samples, and its goodbye."""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

from broker import plans
from broker.calls import check_name, check_whole
from broker.errors import BrokerError, InvalidRequest, PoolAway
from broker.values import GpuReport, HostReport, State

if TYPE_CHECKING:
    from broker.client import Broker
    from broker.ledger.keys import Keys
    from broker.values import HeldLease, LeaseVerdict, ListedProcess

#: A host that tells nothing of itself.
UNTOLD = HostReport()
#: The ledger takes so many processes of a card, so many leases a sample, and so many of the driver's errors of a card.
PROCESSES_MOST, VERDICTS_MOST, XIDS_MOST = 64, 1024, 16
#: Samples that are kept while the ledger cannot be reached: the newest ones.
UNSENT_MOST = 20
_NO_SIGN = re.compile(r"[^\w.,+-]", re.ASCII)


class HostTaken(BrokerError):
    """Another agent publishes for this host."""


class Publisher:
    """One host's pen in the ledger, for one life of its agent."""

    def __init__(self, broker: Broker, host: str) -> None:
        """Write for this host.

        Raises:
            InvalidRequest: the host's name may not stand in a key.
        """
        self._broker = broker
        self.host = check_name("host", host)
        self._heard: tuple[int, float] | None = None  # the ledger's time, and ours, at its last answer
        self._unsent: deque[list[str | int]] = deque(maxlen=UNSENT_MOST)
        self._begin()
        #: The ledger's generation as this agent was last told; 0 at the start.
        self.epoch = 0

    def _begin(self) -> None:
        """Begin a life in the ledger."""
        self._life = f"a{os.urandom(8).hex()}"
        self._sequence = 0
        self._unsent.clear()

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

    def marks(self, uuids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Who drained each of these GPUs, and the reason that stands in the ledger."""
        return self._broker.run(plans.marks(self._broker.keys, uuids))

    def told(self) -> dict[str, GpuReport]:
        """What stands in the ledger of this host's cards, as far as an agent needs it that may not look at them.

        Raises:
            PoolUnavailable: Redis cannot be reached.
        """
        return self._broker.run(_told(self._broker.keys, self.host))

    def revoke(self, lease: HeldLease, grace: float, reason: str) -> None:
        """Ask for the end of this very lease within ``grace`` seconds; one that is over already is left alone.

        Raises:
            PoolUnavailable: Redis cannot be reached.
        """
        self._broker.call("revoke", lease.id, max(0, round(grace * 1000)), reason[:256], lease.token)

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
        away: bool = False,
    ) -> list[str]:
        """Publish a sample of every GPU of the host in one step; it counts as fresh for three intervals.

        Without reports the host stands in the ledger with no GPU, for the reason given. ``read_at`` is ``now()`` of
        when the reading began. Returns the UUIDs that were not taken, because another host publishes them.

        What cannot be sent is kept, the newest samples only, and sent before the next one: each counts as old as it
        is. ``away``: the ledger is known to be out of reach, so this one is kept without asking.

        Raises:
            InvalidRequest: a value is not allowed. HostTaken: another agent publishes for this host. PoolUnavailable:
                Redis cannot be reached.
        """
        self._sequence += 1
        argv: list[str | int] = [
            self.host, check_whole("interval_ms", interval_ms, 1, 3_600_000), host_state, host_reason, source,
            len(reports), len(verdicts[:VERDICTS_MOST]), self.epoch, self._life, self._sequence, _text(read_at),
            _text(host_report.memory_bytes), _text(host_report.cpus_milli), host_report.labels, host_report.machine,
            _pairs(host_report.vitals),
        ]  # fmt: skip
        for report in reports:
            argv += _report(report)
        for verdict in verdicts[:VERDICTS_MOST]:
            argv += [
                verdict.id, verdict.token, verdict.verdict, _text(verdict.used_bytes), _text(verdict.over_bytes),
                _text(verdict.idle_seconds),
            ]  # fmt: skip
        if self._heard is None:  # without the ledger's time no sample could say how old it is
            self._unsent.clear()
        self._unsent.append(argv)
        if away:
            raise PoolAway(f"the sample of {self.host} is kept until the ledger can be reached")
        return self._send()

    @property
    def unsent(self) -> int:
        """Samples that wait for the ledger to be reached."""
        return len(self._unsent)

    def _send(self) -> list[str]:
        refused: list[str] = []
        while self._unsent:
            argv = self._unsent[0]
            try:
                reply = self._broker.call("publish_sample", *argv)
            except InvalidRequest:
                self._unsent.popleft()
                raise
            self._unsent.popleft()
            refused = self._take(list(map(str, reply)))
        return refused

    def _take(self, reply: list[str]) -> list[str]:
        """What the ledger answered. One that was lost on its way is asked for again: then the sample is late."""
        how = reply[0] if reply[0] in ("late", "taken") else ""
        told, epoch, *more = reply[1:] if how else reply
        self._heard = int(told), time.monotonic()
        self.epoch = int(epoch)
        if how == "late" and more[0] == "unknown":  # a ledger that lost data: this life begins anew in it
            self._begin()
        if how == "taken" or (how and more[0] == "followed"):
            self._begin()
            who = "an agent on another machine" if how == "taken" else "a newer agent"
            raise HostTaken(f"{who} publishes for host {self.host!r}; stop one of the two, or give one another --host")
        return [] if how else more

    def leave(self) -> None:
        """Say goodbye: the host's GPUs lend nothing more, and are forgotten once no lease is on them."""
        self._broker.call("leave", self.host)


def _told(keys: Keys, host: str) -> plans.Plan[dict[str, GpuReport]]:
    (uuids,) = yield [("HGET", keys.host(host), "gpus")]
    names = (uuids or "").split()
    if not names:
        return {}
    rows = yield [
        ("HMGET", keys.gpu(name), "host", "index", "name", "capability", "mig", "drained_by") for name in names
    ]
    state = State.UNAVAILABLE
    return {
        name: GpuReport(
            name, int(index), title, state, state, "", capability=capability or "", mig=mig or "",
            marks=tuple(mark for mark in ("health", "people") if mark in (drained_by or "").split(",")),
        )
        for name, (on, index, title, capability, mig, drained_by) in zip(names, rows, strict=True)
        if on == host
    }  # fmt: skip


def _pairs(said: Mapping[str, int | str]) -> str:
    """Names and values in turn. A sign that the ledger does not take in them must not cost the whole sample."""
    return " ".join(f"{name} {_NO_SIGN.sub('_', str(value)) or '_'}" for name, value in said.items())


def _warning(warning: tuple[str, float, float] | None) -> str:
    return "" if warning is None else f"{warning[0]} {max(0, warning[1]):.0f} {max(0, 1000 * warning[2]):.0f}"


def _listed(listed: Sequence[ListedProcess]) -> str:
    return json.dumps([astuple(one) for one in listed], separators=(",", ":")) if listed else ""


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
        " ".join(f"{pid}:{size}" for pid, size in report.processes[:PROCESSES_MOST]), ",".join(sorted(report.marks)),
        _pairs(report.hardware), " ".join(map(str, report.xids[:XIDS_MOST])), _warning(report.warning),
        _listed(report.listed[:PROCESSES_MOST]),
    ]  # fmt: skip
