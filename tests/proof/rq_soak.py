"""RQ jobs under leases while work-horses, workers and helpers are killed: every job done once, or as RQ's retries say.

``python -m tests.proof.rq_soak --jobs 2000 --kills 200 [--seed S] [--json] [--keep FOLDER]``; exit status 1 if a rule
was broken. Three simulated hosts of two cards; every committed state of ledger and RQ is checked from the replication
stream.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import redis
from rq import Queue, Retry
from rq.job import Dependency
from rq.registry import ReadyJobRegistry, StartedJobRegistry

from broker import Broker
from broker.embedded import EmbeddedServer
from broker.fsck import differences
from broker.units import GIB, MIB
from tests.proof.follower import Follower, StreamEnded
from tests.proof.rq_crew import Agents, Killer, Workers
from tests.proof.rq_jobs import CAPACITY, work
from tests.proof.rq_verdict import Verdict
from tests.proof.rq_watch import Job, Watch
from tests.proof.soak import Journal
from worker_hooks.request import GpuRequest

HOSTS = {host: (f"GPU-{host}-a", f"GPU-{host}-b") for host in ("h1", "h2", "h3")}
QUEUES = ("small", "big")
_CARD_BYTES = 6 * GIB - 512 * MIB  # what a card of tests.conftest.report lends
#: What jobs ask for, and how often: mostly small, some on two cards, some nearly a whole card, some nothing at all.
_SHARES = {"512MiB": 4, "1GiB": 6, "2GiB": 6, "3GiB": 4, "5GiB": 3, "5.5GiB": 2, "2x2GiB": 3, "2x4GiB": 2, "": 5}
_BIG = 4 * GIB
_DEPENDENT_SHARE = 0.1
#: Seconds of work: most are short, some outlive a lease whose worker is frozen.
_SHORT, _LONG, _LONG_SHARE = (0.01, 0.4), (3.0, 7.0), 0.03
_PAUSE_SECONDS = (1.0, 9.0)
_TICK_SECONDS = 0.02
_STUCK_SECONDS = 90.0
_QUIET_SECONDS = 60.0
_DEATHS_MOST = 10
#: Jobs from one moment without any worker to the next.
_BLACKOUT_EVERY = 250
Show = Callable[[str], None]


@dataclass(slots=True)
class Result:
    """What a soak did and found."""

    seed: int
    seconds: float = 0.0
    jobs: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    tries_lost: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    transitions: int = 0
    events: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


class RqSoak:
    """One run: a server, its follower, hosts with workers, a feeder of jobs and a killer."""

    def __init__(self, folder: Path, seed: int, jobs: int, kills: int, *, backlog: int = 80) -> None:
        """Prepare; nothing runs yet. ``backlog`` is how many jobs are under way at once."""
        self.dice = random.Random(seed)
        self.result = Result(seed)
        self.watch = Watch()
        self.journal = Journal()
        self._folder, self._jobs, self._backlog = folder, jobs, backlog
        self._due = sorted(self.dice.uniform(0.02, 0.9) * jobs for _ in range(kills))
        self._blackouts = [n * _BLACKOUT_EVERY for n in range(1, 1 + jobs // _BLACKOUT_EVERY)]
        self._aged_at = self._struck_at = 0.0

    def run(self, show: Show) -> Result:
        """Do all the jobs, come to rest, and say what was found."""
        begun = time.monotonic()
        logs = self._folder / "logs"
        logs.mkdir()
        with EmbeddedServer(self._folder / "data") as server:
            self.redis = redis.Redis.from_url(server.url)
            self.text = redis.Redis.from_url(server.url, decode_responses=True)
            self.follower = Follower(server.host, server.port, self.watch, on_event=self.journal.add).start()
            with Broker.from_url(server.url) as self.broker:
                self.broker.update_config(reclaim_seconds=0.3, claim_seconds=3, waiter_seconds=5)
                self.text.hset(CAPACITY, mapping={uuid: _CARD_BYTES for uuids in HOSTS.values() for uuid in uuids})
                self._work(Agents(server.url, HOSTS), Workers(server.url, tuple(HOSTS), logs), show)
            self.follower.stop()
        self.result.seconds = round(time.monotonic() - begun, 1)
        return self.result

    def _work(self, agents: Agents, workers: Workers, show: Show) -> None:
        self.workers, self.killer = workers, Killer(workers, self.dice, _PAUSE_SECONDS)
        try:
            self._hammer(show)
        finally:
            self.killer.thaw(all_of_them=True)
            workers.replace_dead()
            workers.stop()
        self._come_to_rest()
        agents.stop()
        self.result.violations += [agents.failed] if agents.failed else []
        self._judge()

    # -- while it runs -------------------------------------------------------------------------------------------------

    def _hammer(self, show: Show) -> None:
        over, moved = 0, time.monotonic()
        while over < self._jobs:
            done = self._over()
            if done != over:
                over, moved = done, time.monotonic()
            if time.monotonic() - moved > _STUCK_SECONDS:
                self.result.violations.append(f"no job ended for {_STUCK_SECONDS:g} s, {self._jobs - over} are left")
                return
            if len(self.workers.deaths) > _DEATHS_MOST:
                self.result.violations.append("the workers die by themselves")
                return
            if self.follower.broken:
                raise StreamEnded(self.follower.broken)
            self._feed(over)
            self.killer.thaw()
            self.workers.replace_dead()
            self._strike(over)
            self._blackout(over)
            self._pass_time()
            show(self._line(over))
            time.sleep(_TICK_SECONDS)

    def _over(self) -> int:
        return self.watch.statuses["finished"] + self.watch.statuses["failed"]

    def _line(self, over: int) -> str:
        found = self.watch.violation_count + self.watch.wrong_count + len(self.workers.deaths)
        return f"{over} of {self._jobs} jobs   {self.killer.kills} kills   {found} violations"

    def _feed(self, over: int) -> None:
        while len(self.watch.jobs) < self._jobs and len(self.watch.jobs) - over < self._backlog:
            self._enqueue(f"j{len(self.watch.jobs) + 1:05d}")

    def _enqueue(self, name: str) -> None:
        asked = self.dice.choices(list(_SHARES), list(_SHARES.values()))[0]
        known = list(self.watch.jobs)[-self._backlog :]
        depends = len(known) > 1 and self.dice.random() < _DEPENDENT_SHARE
        after = self.dice.sample(known, self.dice.choice((1, 1, 2))) if depends else []
        retries = self.dice.choice((0, 1, 2, 3, 3, 5))
        meta, queue = {}, self.dice.choice(QUEUES)
        if asked:
            ttl, priority = self.dice.choice((3, 4, 5)), self.dice.choice((0, 0, 0, 5))
            request = GpuRequest.checked(asked, ttl=ttl, priority=priority)
            meta, queue = {"gpu": request.as_meta()}, "big" if request.memory_bytes >= _BIG else queue
        seconds = self.dice.uniform(*(_LONG if self.dice.random() < _LONG_SHARE else _SHORT))
        self.watch.expect(Job(name, retries, tuple(after)))
        Queue(queue, connection=self.redis).enqueue(
            work, seconds, job_id=name, meta=meta, result_ttl=-1, failure_ttl=-1, job_timeout=120,
            retry=Retry(max=retries) if retries else None,
            depends_on=Dependency(jobs=after, allow_failure=True) if after else None,
        )  # fmt: skip

    def _strike(self, over: int) -> None:
        """As many kills by now as the jobs that are over, and each at some moment after the one before."""
        if self._due and over >= self._due[0] and time.monotonic() >= self._struck_at:
            struck = self.killer.strike()
            if struck and struck != "pause":
                self._due.pop(0)
            self._struck_at = time.monotonic() + (self.dice.uniform(0, 0.3) if struck else 0)

    def _blackout(self, over: int) -> None:
        """Everybody is gone for longer than ledger and RQ remember who had what."""
        if not self._blackouts or over < self._blackouts[0] - _BLACKOUT_EVERY // 2:
            return
        self._blackouts.pop(0)
        self.killer.strike_all()
        while self.broker.leases():
            self.broker.reap()
            time.sleep(_TICK_SECONDS)
        for key in self.text.scan_iter("gpubroker:*:ended:*", count=1000):
            self.text.delete(key)
        for name in QUEUES:
            queue = Queue(name, connection=self.redis)
            registry = StartedJobRegistry(queue=queue)
            for entry in self.text.zrange(registry.key, 0, -1):
                self.redis.zadd(registry.key, {entry: 1}, xx=True)
            queue.release_maintenance_lock()  # of a worker that died in the midst of it; else it stands for 15 minutes

    def _pass_time(self) -> None:
        """What RQ does by itself 90 s after a worker's last word, and every ten minutes: plain jobs are RQ's own."""
        if time.monotonic() < self._aged_at:
            return
        self._aged_at = time.monotonic() + 1.0
        for name in QUEUES:
            queue = Queue(name, connection=self.redis)
            registry = StartedJobRegistry(queue=queue)
            # Aged, and cleaned up under RQ's lock, now or the next time: its clean-up bears no other beside it
            for entry in self.text.zrange(registry.key, 0, -1):
                job, _, execution = entry.partition(":")
                worker = self.text.hget(f"rq:execution:{job}:{execution}", "worker_name")
                known = self.workers.all.get(worker or "")
                if known is not None and not known.lives and "gpu" not in queue.fetch_job(job).meta:  # type: ignore[union-attr]
                    self.redis.zadd(registry.key, {entry: 1}, xx=True)
            if queue.acquire_maintenance_lock():
                registry.cleanup()
                ReadyJobRegistry(queue=queue).cleanup()
                queue.release_maintenance_lock()

    # -- at its end ----------------------------------------------------------------------------------------------------

    def _come_to_rest(self) -> None:
        """Whatever is held or waited for ends by its time."""
        ends = time.monotonic() + _QUIET_SECONDS
        while (self.broker.leases() or self.broker.waiters()) and time.monotonic() < ends:
            self.broker.reap()
            time.sleep(_TICK_SECONDS)
        for what, left in (("lease", self.broker.leases()), ("waiter", self.broker.waiters())):
            self.result.violations += [f"law 9: {what} {one.id} is still there" for one in left]
        self.result.violations += [f"fsck: {text}" for text in differences(self.broker)]
        try:
            self.follower.catch_up(self.text)
        except (StreamEnded, TimeoutError) as error:
            self.result.violations.append(str(error))

    def _judge(self) -> None:
        result, watch, verdict = self.result, self.watch, Verdict(self.watch, self.workers.all)
        result.jobs = dict(sorted(Counter(watch.places.status.values()).items()))
        result.runs = sum(len(job.runs) for job in watch.jobs.values())
        result.tries_lost = sum(len(job.burnt) for job in watch.jobs.values())
        result.kills = dict(sorted(self.killer.done.items()))
        result.transitions, result.events = watch.transitions, dict(sorted(watch.kinds.items()))
        result.violations += [str(one) for one in watch.violations] + self.journal.violations
        result.violations += [*verdict.told(watch.wrongs), *self.workers.deaths]
        result.violations += [*verdict.of_jobs(self.redis), *verdict.of_books(self.redis, QUEUES)]
        if self._due:
            result.violations.append(f"{len(self._due)} kills were left when all jobs were over")


def soak(
    jobs: int, kills: int, seed: int, show: Show = lambda line: None, *, folder: Path | None = None, backlog: int = 80
) -> Result:
    """Run one soak in a folder of its own, which is gone afterwards unless it was given."""
    if folder is not None:
        folder.mkdir(parents=True)
        return RqSoak(folder, seed, jobs, kills, backlog=backlog).run(show)
    with tempfile.TemporaryDirectory(prefix="gpubroker-rq-soak-") as made:
        return RqSoak(Path(made), seed, jobs, kills, backlog=backlog).run(show)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.rq_soak", description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder for the workers' logs, which stays")
    options = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    said = [0.0]

    def show(line: str) -> None:
        if time.monotonic() - said[0] > 5:
            said[0] = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    result = soak(options.jobs, options.kills, seed, show, folder=options.keep)
    if options.json:
        print(json.dumps(asdict(result), indent=2))
    else:
        _print(result)
    return 1 if result.violations else 0


def _print(result: Result) -> None:
    print(f"seed {result.seed}, {result.seconds} s: {result.runs} runs, {result.tries_lost} tries lost, "
          f"{result.transitions} transitions checked")  # fmt: skip
    for what, counts in (("jobs", result.jobs), ("kills", result.kills), ("events", result.events)):
        print(f"{what}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    for text in result.violations:
        print(f"VIOLATION {text}")
    print("no rule was broken" if not result.violations else f"{len(result.violations)} violations")


if __name__ == "__main__":
    sys.exit(main())
