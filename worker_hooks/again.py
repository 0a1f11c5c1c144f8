"""A job that gives its lease back and is run again from its start: moved off a hot card, or with more memory.

It is no failure: no retry of its own is burnt, no callback called, nothing written into RQ's registry of failed jobs.
"""

from __future__ import annotations

from typing import Any, NoReturn

from rq.job import Job, get_current_job

from broker.errors import BrokerError


class RunAgain(BaseException):
    """Raised in the midst of a job's code: this attempt is over, the next begins anew, wherever there is room.

    Like ``KeyboardInterrupt`` it is no ``Exception``: code that goes on after any error of one photo must not go on
    after this. What the job did until now is done: it should be such that it may be done twice.
    """

    def __init__(self, reason: str, **noted: Any) -> None:
        """``reason`` is for people. ``noted`` is written into ``job.meta["gpu"]`` for the next attempt."""
        super().__init__(reason)
        self.reason = reason
        self.noted = noted


def run_again(reason: str = "it asked to be moved to another card") -> NoReturn:
    """Give the lease back now and be run again from the start as soon as there is room, on this card or a better one.

    Raises:
        RunAgain: always, inside a job: let it pass. BrokerError: outside of one there is nothing to run again.
    """
    if get_current_job() is None:
        raise BrokerError("run_again() is for the code of an RQ job; here nobody would run it again")
    raise RunAgain(reason)


def noted(job: Job, again: RunAgain) -> None:
    """Write into the job at hand why it is run again, and how many times that was so."""
    gpu = job.meta.get("gpu", {})
    job.meta["gpu"] = {**gpu, **again.noted, "again": int(gpu.get("again", 0)) + 1, "again_reason": again.reason}
