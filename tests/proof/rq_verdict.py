"""What must be true of every job of a soak when all is over, and of RQ's and the ledger's books."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from redis import Redis
from rq import Queue
from rq.job import Job as RqJob

from tests.proof.rq_crew import Worker
from tests.proof.rq_watch import Job, Watch

#: A kill and what the stream tells of it are not seen at the same moment.
_MARGIN_SECONDS = 2.0
#: Why a job may fail that was killed too often.
_DEATHS = (
    "Work-horse terminated unexpectedly", "AbandonedJobError", "Its worker died",
    "LeaseLost", "LeaseNotFound", "StaleToken",
)  # fmt: skip


class Verdict:
    """Holds what was seen against what was done to the workers."""

    def __init__(self, watch: Watch, workers: Mapping[str, Worker]) -> None:
        """``workers`` are all that there ever were."""
        self._watch, self._workers = watch, workers

    def of_jobs(self, redis: Redis) -> Iterator[str]:
        """Every job done once, or retried and failed as RQ's rules say."""
        for job in self._watch.jobs.values():
            status = self._watch.places.status.get(job.id)
            story = self._story(job)
            for burnt in job.burnt:
                if not self._was_hit(burnt.worker, burnt.since, burnt.at):
                    yield f"{job.id} lost {burnt.what}, and nobody had harmed {burnt.worker}: {story}"
            if len(job.runs) > 1 + len(job.burnt):
                yield f"{job.id} started {len(job.runs)} times and lost {len(job.burnt)} tries: {story}"
            if status == "finished":
                yield from self._of_finished(job, story)
            elif status == "failed":
                if len(job.burnt) != job.retries + 1:
                    yield f"{job.id} failed after {len(job.burnt)} of {job.retries + 1} tries: {story}"
                why = str(RqJob.fetch(job.id, connection=redis).latest_result().exc_string)  # type: ignore[union-attr]
                if not any(death in why for death in _DEATHS):
                    yield f"{job.id} failed by itself: {why}"
            else:
                where = sorted(self._watch.places.jobs[job.id].elements())
                yield f"{job.id} is {status} at the end, in {where}: {story}"

    def told(self, wrongs: Iterable[str]) -> Iterator[str]:
        """What was seen while it ran; with the first thing of each job, the job's story."""
        seen = set()
        for text in wrongs:
            job = self._watch.jobs.get(text.partition(" ")[0])
            if job is None or job.id in seen:
                yield text
            else:
                seen.add(job.id)
                yield f"{text}: {self._story(job)}"

    def _of_finished(self, job: Job, story: str) -> Iterator[str]:
        """Exactly one run was completed, not counting those whose worker was killed before RQ had heard of it."""
        completed = [run for run in job.runs if run.ended == "ended"]
        if not completed or job.runs[-1].ended != "ended":
            yield f"{job.id} is finished and its last run was not completed: {story}"
        for run, after in zip(job.runs, job.runs[1:], strict=False):
            if run.ended == "ended" and not self._was_hit(run.worker, run.began, after.began):
                yield f"{job.id} was completed and ran again: {story}"

    def _was_hit(self, name: str, since: float, until: float) -> bool:
        hits = self._workers[name].hits if name in self._workers else ()
        return any(since - _MARGIN_SECONDS <= at <= until + _MARGIN_SECONDS for _, at in hits)

    def _story(self, job: Job) -> str:
        if not job.path:
            return "never enqueued"
        first = job.path[0][0]
        told = [(at, f"in {where} by {who}" if who else f"in {where}") for at, where, who in job.path]
        for run in job.runs:
            told.append((run.began, f"starts in {run.process.partition(' ')[0]} of {run.worker}"))
            if run.ended:
                told.append((run.ended_at, f"{run.ended} {run.why}".rstrip()))
        told += [(one.at, f"loses {one.what} of {one.worker}, since {one.since - first:.2f}") for one in job.burnt]
        names = {run.worker for run in job.runs} | {one.worker for one in job.burnt}
        last = max(at for at, _ in told)
        told += [
            (at, f"{what} of {name}")
            for name in names & self._workers.keys()
            for what, at in self._workers[name].hits
            if first <= at <= last + 5
        ]
        return "; ".join(f"{at - first:.2f} s {what}" for at, what in sorted(told))

    def of_books(self, redis: Redis, queues: tuple[str, ...]) -> Iterator[str]:
        """Nothing is left in RQ's lists and registries, nor in what the workers keep beside them."""
        for name in queues:
            queue = Queue(name, connection=redis)
            registries = (f"rq:{place}:{name}" for place in ("wip", "scheduled", "deferred", "ready"))
            kept: dict[str, object] = {
                "the queue": queue.get_job_ids(),
                "the intermediate list": redis.lrange(queue.intermediate_queue_key, 0, -1),
                "the parked": redis.hgetall(f"rq:gpu:{name}:parked"),
                **{key: redis.zrange(key, 0, -1, withscores=True) for key in (*registries, f"rq:gpu:{name}:until")},
            }
            yield from (f"{what} of {name} holds {left}" for what, left in kept.items() if left)
        for key in redis.scan_iter("rq:execution*", count=1000):
            yield from self._of_execution(redis, key.decode())

    def _of_execution(self, redis: Redis, key: str) -> Iterator[str]:
        """What a killed worker had written of its job ends by RQ's own time; any other was to be removed."""
        if redis.ttl(key) == -1:
            yield f"{key} is left for ever"
        elif key.startswith("rq:execution:"):
            worker = (redis.hget(key, "worker_name") or b"").decode()
            if worker in self._workers and not self._workers[worker].hits:
                yield f"{key} is left, and nobody had harmed {worker}"
