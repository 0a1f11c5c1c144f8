"""What a job does when it hears that its lease is over: ``on_lease_lost`` of ``@gpu_job``.

The keeper sends ``LOST_SIGNAL``; this is the handler in the job's process.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING

from broker.errors import InvalidRequest, LeaseLost
from worker_hooks.again import RunAgain
from worker_hooks.signals import LOST_SIGNAL

if TYPE_CHECKING:
    from rq.job import Job

    from worker_hooks.holding import JobLease

#: An exception in the job, SIGKILL without a word, the job run again from its start, or a function's dotted name.
RAISE, KILL, AGAIN = "raise", "kill", "again"

Callback = Callable[["JobLease"], object]

_ALLOWED = '"raise", "again", "kill", or a function of a module, as itself or by its dotted name'
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def check(choice: str | Callback) -> str:
    """The choice, as ``job.meta["gpu"]["on_lease_lost"]`` has it. Nothing is imported for it.

    Raises:
        InvalidRequest: neither of the two words, nor a function that another process can find by its name.
    """
    if callable(choice):
        name = f"{getattr(choice, '__module__', None)}.{getattr(choice, '__qualname__', '<unknown>')}"
    else:
        name = choice
    if not isinstance(name, str) or not (name in (RAISE, KILL, AGAIN) or _DOTTED.fullmatch(name)):
        raise InvalidRequest("on_lease_lost", choice, _ALLOWED)
    return name


def told_by(choice: str) -> str:
    """What a keeper is told to do to a job of that choice: its ``on_lost``. A signal reaches only the main thread."""
    if choice == KILL:
        return "kill"
    return "signal" if threading.current_thread() is threading.main_thread() else "nothing"


def choice_of(job: Job) -> str:
    """What is to become of a job when its lease is lost: ``on_lease_lost`` of its request."""
    return str(job.meta.get("gpu", {}).get("on_lease_lost", RAISE))


@contextmanager
def listening(
    lease_id: str, view: Callable[[], JobLease | None], choice: str = RAISE, well: Callable[[], bool] | None = None
) -> Iterator[None]:
    """For the length of the body, in the main thread, answer the keeper's signal: once, in the midst of whatever runs.

    ``view`` finds the job's view of its lease, whose ``lost`` is true from then on. With ``raise`` the body gets
    ``LeaseLost``, with ``again`` ``RunAgain``. A callback is called with the view and the body goes on, until it ends
    or is killed: when a revoked lease ends, else ten seconds later. In any other thread nothing is heard, and
    ``view.lost`` says when to stop. A signal after which ``well`` says that the lease is held is no news.

    Raises:
        InvalidRequest: there is no such function. LeaseLost, RunAgain: in the midst of the body.
    """
    callback = None if choice in (RAISE, KILL, AGAIN) else _function(choice)
    if (choice == KILL and well is None) or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = False

    def lost(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if heard or (well is not None and well()):
            return
        heard = True
        lease = view()
        if lease is not None:
            lease.mark_lost()
        if choice == RAISE:
            raise LeaseLost(f"lease {lease_id} is over, or is to end soon; its memory is not this job's any more")
        if choice == AGAIN:
            raise RunAgain(f"lease {lease_id} was lost, or asked for back")
        if callback is not None and lease is not None:
            callback(lease)

    before = signal.signal(LOST_SIGNAL, lost)
    try:
        yield
    finally:
        heard = True  # from here on nothing is to be interrupted
        signal.signal(LOST_SIGNAL, before or signal.SIG_DFL)


def _function(name: str) -> Callback:
    """The function of that dotted name; its module is what can be imported of it.

    Raises:
        InvalidRequest: there is none.
    """
    module, _, rest = check(name).rpartition(".")
    path = [rest]
    while module:
        try:
            found: object = import_module(module)
            for part in path:
                found = getattr(found, part)
        except (ModuleNotFoundError, AttributeError):
            module, _, rest = module.rpartition(".")
            path.insert(0, rest)
            continue
        if callable(found):
            return found
        break
    raise InvalidRequest("on_lease_lost", name, "a function that can be imported where the job runs")
