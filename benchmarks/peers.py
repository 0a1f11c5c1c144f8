"""gpubroker beside the field: locks, a semaphore, a rate limiter, RQ's own limit, Dask and Ray, at the same work.

Method: one embedded server without persistence for all who use Redis; each client is a process of its own with the
peer's library as its documentation uses it, with its defaults (``benchmarks/peer``, a module each). Everything has a
capacity of one, since a lock can do no more. In rounds the peers take turns, so that a slow spell hits all.

*Borrow and give back:* one client, what nobody else wants; medians, also by the median of a bare EVALSHA by the same
process (redis-semaphore's by Node's client); round trips are the server's count of reads. *Hand-over:* from the call
of a release to the return of the waiter's call in another process; the release falls anywhere between two tries of who
polls. *Jobs:* a burst of jobs that do nothing, from before the first is sent until the last is done, for RQ's from
the end of the first to that of the last, since their worker starts for each burst; RQ's by a
``SimpleWorker`` (ours ``GpuSimpleWorker``), with the peer's lock taken and given back in the job; Dask's and Ray's
tasks hold the only GPU. *One by one* is from sending a job to having its result, by a worker that forks, by Dask's
thread, by Ray's process that stays. The hand-over of jobs is from the last line of one to the first of the next,
between two workers that fork. *Killed:* SIGKILL to the process that holds, right after it borrowed; seconds until one
who waits has it, or the cap. *Lost replies:* three clients borrow the same names in turn over a proxy that loses every
seventh reply (the server did what it was asked for, the connection is cut); each library tries again as it does by
default. Counted are loans beyond the capacity, by the clients' own beliefs, and names that nobody holds and nobody can
borrow.

A peer that is not installed is shown as such; redis-semaphore is installed into ``build/`` by npm.

``python -m benchmarks.peers [--long] [--json]``
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import click
from redis import Redis

from benchmarks import frame
from benchmarks.peer import driver, facts, ours, scripts, tables
from benchmarks.peer.borrower import ALONE
from benchmarks.peer.far import Far, FarError
from benchmarks.peer.found import Back, Results
from broker.embedded import EmbeddedServer

#: Under RQ's own worker ``@gpu_job`` starts a keeper for each job: a fifth of the jobs is enough.
_SLOW, _SLOW_PART = "@gpu_job", 5
#: Jobs that are sent and waited for in a round.
_EACH = 3

#: Those whose worker is not the process in which the job runs.
_WORKERS_FORK = tuple(peer.name for peer in facts.QUEUES if peer.module == "rq_jobs")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    rounds: int
    calls: int
    hand_overs: int
    bursts: int
    jobs: int
    job_hand_overs: int
    batches: list[list[str]] = field(default_factory=list)
    #: After so long no further round begins, on a machine that is slower than most.
    phase_seconds: float = 12.0
    cap_seconds: float = 42.0
    job_cap_seconds: float = 12.0


def _batches(count: int, size: int) -> list[list[str]]:
    return [[f"lost-{batch}-{i}" for i in range(size)] for batch in range(count)]


QUICK = Plan(8, 100, 10, 4, 40, 4, _batches(3, 3))
LONG = Plan(20, 300, 40, 8, 100, 20, _batches(12, 4), 600.0, 120.0, 120.0)


class Field:
    """One run over all peers that are there."""

    def __init__(self, url: str, plan: Plan, progress: Callable[[str], None]) -> None:
        """Look who is there."""
        self.url, self.plan, self.step = url, plan, progress
        self.chance = random.Random(7)
        self.found = Results()
        self.redis: Any = Redis.from_url(url, socket_timeout=plan.cap_seconds + 90)
        self.lenders, self.queues, self.around = (
            [peer for peer in kind if not self._missing(peer)]
            for kind in (facts.LENDERS, facts.QUEUES, facts.AROUND_JOBS)
        )
        names = [ALONE, "handed", "killed", *(name for batch in plan.batches for name in batch)]
        ours.stock(url, "default", names)

    def _missing(self, peer: facts.Peer) -> bool:
        why = peer.missing()
        if why:
            self.found.missing[peer.name] = why
        return bool(why)

    def run(self) -> Results:
        """Everything, in the order of the tables."""
        with ExitStack() as stack, ThreadPoolExecutor(32) as pool:
            self.step("starting whoever lends")
            first, second = (self._started(stack, self.lenders) for _ in range(2))
            self._pairs(first)
            self._hand_overs(first, second)
            # Most of it is waiting, and nothing is timed to a hair until the queues are started.
            kills = [
                pool.submit(self._kill_lender, name, first[name], far) for name, far in second.items() if name in first
            ]
            losses = [pool.submit(self._lose, peer) for peer in self.lenders if peer.name in first]
            self.step("losing replies; starting whoever runs jobs")
            around, queues = self._started(stack, self.around), self._started(stack, self.queues)
            for one in losses:
                one.result()
            self._bursts(around | queues)
            self._job_hand_overs(queues)
            self.step("killing who holds")
            kills += [pool.submit(self._kill_script, name) for name in scripts.SCRIPTS]
            kills += [pool.submit(self._kill_jobs, name, far) for name, far in queues.items()]
            for one in kills:
                one.result()
        return self.found

    def _started(self, stack: ExitStack, peers: Iterable[facts.Peer]) -> dict[str, Far]:
        """All at once, since most of it is the import of libraries; those that do not serve are missing."""
        fars, ready = {peer.name: peer.started(self.url) for peer in peers}, {}
        for far in fars.values():
            stack.callback(far.end)
        for name, far in fars.items():
            self._try(name, "start", lambda name=name, far=far: ready.update({name: far.ready()}))  # type: ignore[misc]
        return ready

    def _try(self, name: str, what: str, call: Callable[[], Any]) -> Any:
        """One peer's failure is told in its row, and is not the end of the others."""
        if (name, what) in self.found.failed:
            return None
        try:
            return call()
        except FarError as error:
            self.found.failed[name, what] = str(error)
            return None

    # -- one client, and two -------------------------------------------------------------------------------------------

    def _pairs(self, fars: dict[str, Far]) -> None:
        self.step("borrowing and giving back")
        calls = self.plan.calls
        for turn in rounds(self.plan.rounds, self.plan.phase_seconds):
            for name, far in _turned(fars, turn):
                bare = self._try(name, "pair", lambda far=far: far.call("bares", calls)) or []  # type: ignore[misc]
                before = self._reads()
                spans = self._try(name, "pair", lambda far=far: far.call("pairs", calls)) or []  # type: ignore[misc]
                reads = self._reads() - before - 1
                if turn >= 0:  # the first warms caches on both sides
                    self.found.bare_us[name] += bare
                    self.found.pair_us[name] += spans
                    self.found.trips[name] = round(reads / calls, 1)

    def _reads(self) -> int:
        return int(self.redis.info("stats")["total_reads_processed"])

    def _hand_overs(self, first: dict[str, Far], second: dict[str, Far]) -> None:
        self.step("handing over")
        for turn in rounds(self.plan.hand_overs, self.plan.phase_seconds):
            for peer in self.lenders:
                a, b = first.get(peer.name), second.get(peer.name)
                if a is None or b is None:
                    continue
                took = self._try(
                    peer.name, "hand-over",
                    lambda a=a, b=b, peer=peer: driver.hand_over(a, b, "handed", peer.poll_seconds, self.chance),  # type: ignore[misc]
                )  # fmt: skip
                if took is not None and turn >= 0:
                    self.found.hand_ms[peer.name].append(took)

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def _bursts(self, fars: dict[str, Far]) -> None:
        self.step("running jobs that do nothing")
        for turn in rounds(self.plan.bursts, self.plan.phase_seconds):
            for name, far in _turned(fars, turn):
                jobs = self.plan.jobs // (_SLOW_PART if _SLOW in name else 1)
                took = self._try(name, "burst", lambda far=far, jobs=jobs: far.call("burst", jobs))  # type: ignore[misc]
                if took is not None and turn >= 0:
                    self.found.job_ms[name].append(took * 1e3)

    def _job_hand_overs(self, queues: dict[str, Far]) -> None:
        self.step("handing over between jobs")
        for name, far in queues.items():
            self._try(name, "hand-over", lambda far=far: far.call("start"))  # type: ignore[misc]
        for turn in rounds(self.plan.job_hand_overs, self.plan.phase_seconds):
            for name, far in _turned(queues, turn):
                spans = self._try(name, "one by one", lambda far=far: far.call("each", _EACH)) or []  # type: ignore[misc]
                if turn >= 0:
                    self.found.each_ms[name] += [span / 1e3 for span in spans]
                stage = driver.Stage(self.redis, f"{name}-{turn}")
                took = self._try(
                    name, "hand-over", lambda stage=stage, far=far: stage.hand_over(far, self.chance)  # type: ignore[misc]
                )  # fmt: skip
                if took is not None and turn >= 0:
                    self.found.hand_ms[name].append(took)

    # -- faults --------------------------------------------------------------------------------------------------------

    def _kill_lender(self, name: str, holder: Far, waiter: Far) -> None:
        cap = self.plan.cap_seconds
        self._killed(name, "the process", lambda: driver.recovery(holder, waiter, "killed", cap))

    def _kill_script(self, name: str) -> None:
        pool, cap = scripts.waits_in(name), self.plan.job_cap_seconds

        def kill() -> Back:
            with Redis.from_url(self.url, socket_timeout=90) as redis, Far.python("ours", self.url, pool) as waiter:
                return scripts.recovery(name, self.url, redis, waiter, cap)

        self._killed(name, "the process", kill)

    def _kill_jobs(self, name: str, far: Far) -> None:
        cap = self.plan.job_cap_seconds
        victims = {"pid": "the job's process"}
        if name in _WORKERS_FORK:
            victims["parent"] = "its worker"
        with Redis.from_url(self.url, socket_timeout=cap + 90) as redis:
            for victim, shown in victims.items():
                stage = driver.Stage(redis, f"{name}-{victim}")
                self._killed(name, shown, lambda stage=stage, victim=victim: stage.recovery(far, victim, cap))  # type: ignore[misc]

    def _killed(self, name: str, victim: str, kill: Callable[[], Back]) -> None:
        self._try(name, f"killed: {victim}", lambda: self.found.killed.update({(name, victim): kill()}))

    def _lose(self, peer: facts.Peer) -> None:
        def lose() -> None:
            self.found.losses[peer.name] = driver.lost_replies(peer, self.url, self.plan.batches)

        self._try(peer.name, "lost replies", lose)


def rounds(count: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> Iterator[int]:
    """A round's number, from -1: that one warms caches and is not told. Two are told at least, if ``count`` allows."""
    begun = clock()
    for turn in range(-1, count):
        if turn > 1 and clock() - begun > seconds:
            return
        yield turn


def _turned(fars: dict[str, Far], turn: int) -> list[tuple[str, Far]]:
    """In an order that begins with another one each turn."""
    items = list(fars.items())
    at = turn % len(items) if items else 0
    return items[at:] + items[:at]


@click.command()
@frame.options
def main(run: frame.Run) -> None:
    """Print the tables: gpubroker beside locks, semaphores, limits, Dask and Ray."""
    with EmbeddedServer() as server, run.progress() as progress:
        bar = progress.add_task("starting", total=None)
        place = Field(server.url, LONG if run.long else QUICK, lambda what: progress.update(bar, description=what))
        found = place.run()
    told = frame.Found(
        "peers", "gpubroker beside the field", (__doc__ or "").partition("\n\n``python")[0], tables.all_of(found),
        tables.goals(found), tables.raw(found),
    )  # fmt: skip
    run.tell(told, tables.draw)


if __name__ == "__main__":
    main()
