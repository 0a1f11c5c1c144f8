"""What an agent says, as the arguments of ``publish_sample.lua``, and read back from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Report:
    """One card of a sample; ``None`` is unknown. ``processes``: pid and bytes of strangers."""

    uuid: str
    state: str = "OPTIMAL"
    total: int | None = None
    unmanaged: int | None = None
    capability: str = ""
    mig: str = ""
    processes: tuple[tuple[int, int], ...] = ()
    marks: str = ""

    def argv(self, index: int) -> tuple[str | int, ...]:
        """Its 22 arguments."""
        total, unmanaged = ("" if n is None else n for n in (self.total, self.unmanaged))
        strangers = " ".join(f"{pid}:{size}" for pid, size in self.processes)
        measured = total, unmanaged, "", unmanaged, 40 + index, "", "", ""
        return (
            self.uuid, index, "Test", self.state, self.state, "", *measured, self.capability, self.mig, strangers,
            self.marks, "", "", "", "",
        )  # fmt: skip

    @classmethod
    def parse(cls, *argv: str | int) -> Report:
        """Read back."""
        total, unmanaged = (int(argv[i]) if argv[i] != "" else None for i in (6, 9))
        pairs = [part.split(":") for part in str(argv[16]).split()]
        strangers = tuple((int(pid), int(size)) for pid, size in pairs)
        return cls(str(argv[0]), str(argv[3]), total, unmanaged, str(argv[14]), str(argv[15]), strangers, str(argv[17]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an agent saw of a lease's process: alive, gone or nothing."""

    id: str
    token: int
    verdict: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One host's sample."""

    host: str
    life: str
    sequence: int
    reports: Sequence[Report] = ()
    verdicts: Sequence[Verdict] = ()
    interval: int = 600_000
    known_epoch: int = 0
    read_at: int = 0
    memory: int = 0
    cpus: int = 0
    labels: str = ""

    @property
    def argv(self) -> tuple[str | int, ...]:
        """The arguments of ``publish_sample.lua``."""
        head = (
            self.host, self.interval, "OK", "", "test", len(self.reports), len(self.verdicts), self.known_epoch,
            self.life, self.sequence, self.read_at or "", self.memory or "", self.cpus or "", self.labels,
            "", "",
        )  # fmt: skip
        cards = [word for index, report in enumerate(self.reports) for word in report.argv(index)]
        return (*head, *cards, *(word for v in self.verdicts for word in (v.id, v.token, v.verdict, "", "", "")))

    @classmethod
    def parse(cls, *argv: str | int) -> Sample:
        """Read back."""
        count, seen = int(argv[5]), int(argv[6])
        cards, leases = argv[16 : 16 + 22 * count], argv[16 + 22 * count :]
        return cls(
            str(argv[0]), str(argv[8]), int(argv[9]),
            [Report.parse(*cards[i * 22 : i * 22 + 22]) for i in range(count)],
            [Verdict(str(leases[i * 6]), int(leases[i * 6 + 1]), str(leases[i * 6 + 2])) for i in range(seen)],
            int(argv[1]), int(argv[7]), int(argv[10] or 0), int(argv[11] or 0), int(argv[12] or 0), str(argv[13]),
        )  # fmt: skip
