"""Which jobs are on which card, as files for others: ``dcgm-exporter --hpc-job-mapping-dir`` reads them.

A file for each card, named by its index as NVML counts; in it a job's id a line. DCGM-exporter then gives each metric
of the card once for each of these jobs, with the label ``hpc_job``. A card without jobs has an empty file, and so has
every card when the agent leaves: none is taken away, as a reader that saw its name would fail over it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.sources import Reading
from broker.errors import InvalidRequest
from broker.values import HeldLease

#: Of one name: DCGM-exporter gives up a whole scrape over a line of 64 KiB.
_LENGTH_MOST = 200
_CARD = re.compile(r"\d+", re.ASCII)


def jobs_on(readings: Sequence[Reading], held: Mapping[str, Sequence[HeldLease]]) -> dict[int, list[str]]:
    """The jobs on each card, each once: two metrics with the same labels would be none. A lease of no job goes by its
    own name. The instances of a divided card have its index together.
    """
    names: dict[int, set[str]] = {}
    for reading in readings:
        on_card = names.setdefault(reading.index, set())
        on_card.update(_line(lease.job_id or lease.id) for lease in held.get(reading.uuid, ()))
    return {index: sorted(jobs) for index, jobs in names.items()}


class JobMapping:
    """The files of one folder. Nobody else writes numbered files there."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, and see that it can be written.

        Raises:
            InvalidRequest: it cannot.
        """
        self._folder = folder
        self._told: dict[int, str] = {}
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            for entry in folder.iterdir():
                if _CARD.fullmatch(entry.name) and entry.is_file():
                    self._write(int(entry.name), "")  # of an agent before that was killed
            self._probe()
        except OSError as error:
            allowed = f"a folder that can be written; {error.strerror or error}"
            raise InvalidRequest("--job-mapping", str(folder), allowed) from None

    def tell(self, jobs: Mapping[int, Sequence[str]]) -> None:
        """These jobs are on these cards, and none on all others. Writes what changed, or what somebody took away.

        Raises:
            OSError: a file cannot be written; the next call tries again.
        """
        for index in sorted({*self._told, *jobs}):
            text = "".join(f"{job}\n" for job in jobs.get(index, ()))
            if self._told.get(index) != text or not (self._folder / str(index)).exists():
                self._write(index, text)

    def clear(self) -> None:
        """No job is on any card as far as this agent can say.

        Raises:
            OSError: a file cannot be written.
        """
        self.tell({})

    def _probe(self) -> None:
        probe = self._folder / ".gpubroker"
        probe.write_bytes(b"")
        probe.unlink()

    def _write(self, index: int, text: str) -> None:
        """In one step: a reader sees the old file or the new one. The new one's name is no number until then."""
        path, fresh = self._folder / str(index), self._folder / f".{index}.new"
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)  # whoever reads it is another user
            file.write(text)
        fresh.replace(path)
        self._told[index] = text


def _line(name: str) -> str:
    """A name on one line, whatever somebody wrote into the ledger by hand."""
    return "".join(letter if letter.isprintable() else "_" for letter in name[:_LENGTH_MOST])
