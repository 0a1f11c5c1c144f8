"""The history of every job of a soak, from the replication stream: its places, its runs, and what each run cost it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.proof.laws import Checker
from tests.proof.mirror import Command, Step
from tests.proof.rq_jobs import RUNS
from tests.proof.rq_places import Places, place_of

_MOST_SHOWN = 100
_EXECUTION, _WORKER = "rq:execution:", "rq:worker:"


@dataclass(slots=True)
class Run:
    """The code of a job, from its start on. ``ended`` is how: ``ended``, ``raised``, or empty."""

    job: str
    process: str
    worker: str
    lease: str
    began: float
    ended: str = ""
    ended_at: float = 0.0
    #: What it raised.
    why: str = ""


@dataclass(slots=True)
class Burnt:
    """A retry that a job lost, or its failure; ``worker`` had its last execution."""

    job: str
    worker: str
    what: str
    at: float
    since: float


@dataclass(slots=True)
class Job:
    """What is known of one job."""

    id: str
    retries: int
    after: tuple[str, ...] = ()
    runs: list[Run] = field(default_factory=list)
    #: Since when RQ had it where, in each place as often as it is there; and who saw to that, where it can be told.
    path: list[tuple[float, str, str]] = field(default_factory=list)
    burnt: list[Burnt] = field(default_factory=list)
    #: The worker of its newest execution, and since when.
    worker: str = ""
    worker_since: float = 0.0


class Watch(Checker):
    """A checker of the ledger's laws that looks at RQ's keys and at the runs too."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        super().__init__()
        self.places = Places()
        self.jobs: dict[str, Job] = {}
        #: Jobs by what RQ says of them at this moment.
        self.statuses: Counter[str] = Counter()
        #: Broken rules of RQ's side, in words, and how many there were in all.
        self.wrongs: list[str] = []
        self.wrong_count = 0
        #: Runs at work, by worker.
        self.at_work: dict[str, Run] = {}
        self._shown: dict[str, str] = {}
        self._told: dict[str, set[str]] = defaultdict(set)

    def expect(self, job: Job) -> None:
        """A job that is about to be enqueued."""
        self.jobs[job.id] = job

    def wrong(self, text: str) -> None:
        """Note it, each thing once."""
        self.wrong_count += 1
        if len(self.wrongs) < _MOST_SHOWN:
            self.wrongs.append(text)

    def apply(self, commands: Sequence[Command]) -> Step:
        """One transaction."""
        step = super().apply(commands)
        before = {job: self.places.retries.get(job) for job in self._jobs_in(commands)}
        for text in self.places.take(commands):
            job = text.partition(" ")[0]
            if text not in self._told[job]:  # a job that is nowhere may be touched often
                self._told[job].add(text)
                self.wrong(text)
        for command in commands:
            if command[0].upper() == "XADD" and command[1] == RUNS:
                self._hear(dict(zip(command[3::2], command[4::2], strict=True)))
            elif command[0].upper() in ("HSET", "HMSET") and command[1].startswith(_EXECUTION):
                self._execute(dict(zip(command[2::2], command[3::2], strict=True)))
        for name in self.places.touched & self.jobs.keys():
            path, now = self.jobs[name].path, "+".join(sorted(self.places.jobs[name].elements())) or "nowhere"
            if not path or path[-1][1] != now:
                path.append((time.monotonic(), now, _who(commands)))
        for name, retries in before.items():
            self._follow(self.jobs[name], retries)
        return step

    def _jobs_in(self, commands: Sequence[Command]) -> list[str]:
        names = {c[1].removeprefix("rq:job:") for c in commands if len(c) > 2 and c[1].startswith("rq:job:")}
        return [name for name in names if name in self.jobs]

    def _execute(self, fields: dict[str, str]) -> None:
        job = self.jobs.get(fields.get("job_id", ""))
        if job is not None and "worker_name" in fields:
            job.worker, job.worker_since = fields["worker_name"], time.monotonic()

    def _follow(self, job: Job, retries: int | None) -> None:
        """Its status and retries, before and after a transaction."""
        status, left = self.places.status.get(job.id, ""), self.places.retries.get(job.id)
        before = self._shown.get(job.id, "")
        if status != before:
            self.statuses[before] -= 1
            self.statuses[status] += 1
            self._shown[job.id] = status
        failed = status == "failed" and before != "failed"
        if failed or (retries is not None and left is not None and left < retries):
            what = "it failed" if failed else "a retry"
            job.burnt.append(Burnt(job.id, job.worker, what, time.monotonic(), job.worker_since))
        if before in ("finished", "failed") and status != before:
            self.wrong(f"{job.id} was {before} and is {status} now")

    def _hear(self, said: dict[str, str]) -> None:
        if said["kind"] == "wrong":
            self.wrong(said["text"])
            return
        job, worker = self.jobs[said["job"]], said["worker"]
        if said["kind"] == "started":
            run = Run(job.id, said["process"], worker, said["lease"], time.monotonic())
            job.runs.append(run)
            self.at_work[worker] = run
            self._check_start(job, run, said)
            return
        for run in job.runs:
            if run.process == said["process"] and not run.ended:
                run.ended, run.ended_at, run.why = said["kind"], time.monotonic(), said.get("why", "")
                self.at_work.pop(worker, None)

    def _check_start(self, job: Job, run: Run, said: dict[str, str]) -> None:
        for other in job.after:
            if self.places.status.get(other) not in ("finished", "failed"):
                self.wrong(f"{job.id} started before {other}, on which it depends, was over")
        if self.places.jobs[job.id]["wip"] != 1:
            self.wrong(f"{job.id} started and RQ has it in {sorted(self.places.jobs[job.id].elements())}")
        if run.lease:
            lease = self.account.mirror.hash(f"lease:{run.lease}")
            if lease.get("token") != said["token"]:
                self.wrong(f"law 9: {job.id} started under lease {run.lease}, which the ledger does not know: {lease}")


def _who(commands: Sequence[Command]) -> str:
    """Whose transaction this is: a worker's, which writes of itself along, or a clean-up's of RQ."""
    for command in commands:
        if len(command) > 1 and command[1].startswith(_WORKER):
            return command[1].removeprefix(_WORKER).partition(":")[0]
    if any(command[0].upper() == "ZREMRANGEBYSCORE" and place_of(command[1]) == "wip" for command in commands):
        return "RQ's clean-up"
    return ""
