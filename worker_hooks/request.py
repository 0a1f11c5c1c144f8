"""What a job asks for, in the words of its ``meta["gpu"]``: known to a worker before any job code is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from rq.exceptions import DeserializationError
from rq.serializers import PickleSerializer

from broker import calls
from broker.errors import InvalidRequest
from broker.sizes import check_input_size
from broker.units import MAX_MEMORY_BYTES, TIB, parse_seconds, parse_size
from worker_hooks import losing

if TYPE_CHECKING:
    from rq.job import Job

#: A lease's life without renewal, in seconds, where neither decorator nor ``GPUBROKER_LEASE_TTL`` says otherwise.
DEFAULT_TTL = 30.0
#: RQ counts seconds in whole numbers, so a worker renews once a second at most, three times a TTL at least.
TTL_LEAST = 3.0
#: The longest wait that the ledger takes; a job without ``wait`` waits that long.
WAIT_MOST = 30 * 86_400.0
#: Instead of a size: what the runs of the function took until now, see ``docs/decisions/right-size.md``.
AUTO = "auto"

_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """A checked request. ``asks`` are its alternatives in the ledger's words, ``"2x8589934592"``, best first.

    ``wait`` and ``ttl`` in seconds; ``None`` waits for room as long as it takes, or takes ``GPUBROKER_LEASE_TTL`` of
    the worker (30). ``host_memory`` in bytes, ``cpus`` in processors. ``on_lease_lost`` is ``raise``, ``again``,
    ``kill`` or a function's dotted name. ``reschedule``: see ``gpu_job``. What is ``None`` does not matter.

    A request of "auto" has a ``default`` in bytes, which stands in ``asks`` until the ledger says better; the ``size``
    of its input, if it has one; in ``too_little`` the bytes with which its last attempt ran out of memory; and in
    ``known`` how many of those that it asks for are no guess.
    """

    asks: tuple[str, ...]
    wait: float | None = None
    ttl: float | None = None
    priority: int = 0
    tenant: str = "default"
    gpu: str | None = None
    labels: Mapping[str, str] | None = None
    capability: str | None = None
    mig: str | None = None
    host_memory: int | None = None
    cpus: float | None = None
    placement: str | None = None
    on_lease_lost: str = losing.RAISE
    reschedule: float | None = None
    default: int | None = None
    size: float | None = None
    too_little: int = 0
    known: int = 0

    @classmethod
    def checked(
        cls,
        memory: calls.Memory,
        *,
        gpus: int = 1,
        wait: float | None = None,
        ttl: float | None = None,
        host_memory: int | str | None = None,
        on_lease_lost: str | losing.Callback = losing.RAISE,
        reschedule: float | None = None,
        default: int | str | None = None,
        size: float | None = None,
        too_little: int = 0,
        **options: Any,
    ) -> GpuRequest:
        """The request, if every value is allowed. ``options`` are further fields of it.

        Raises:
            InvalidRequest: names the field, the value and what is allowed.
        """
        unknown = sorted(set(options) - {one.name for one in fields(cls)})
        if unknown:
            raise InvalidRequest(unknown[0], options[unknown[0]], "a field of a request for GPU memory")
        stated = _stated(memory, gpus, default, size)
        own = None if host_memory is None else parse_size(host_memory, "host_memory", most=1024 * TIB)
        # The checks of a request at any other door, and in the same words.
        asked = calls.ask(memory if stated is None else stated, gpus=gpus, host_memory=own, **options)
        return cls(
            tuple(map(str, asked.wants)),
            None if wait is None else parse_seconds(wait, "wait", least=0, most=WAIT_MOST) / 1000,
            None if ttl is None else check_ttl(ttl, "lease_ttl"),
            host_memory=own,
            on_lease_lost=losing.check(on_lease_lost),
            reschedule=None
            if reschedule is None
            else parse_seconds(reschedule, "reschedule", least=1, most=86_400) / 1000,
            default=stated,
            size=None if size is None else check_input_size(size),
            too_little=calls.check_whole("too_little_bytes", too_little, 0, MAX_MEMORY_BYTES),
            **{name: value for name, value in options.items() if value is not None},
        )

    @property
    def memory_bytes(self) -> int:
        """Bytes of each GPU, of the first alternative."""
        return calls.wants(self.asks[0])[0].memory_bytes

    @classmethod
    def of_meta(cls, meta: Mapping[str, Any]) -> GpuRequest | None:
        """The request that a job carries, or ``None`` for a job that borrows nothing.

        Raises:
            InvalidRequest: it carries one that is not allowed.
        """
        asked = meta.get("gpu")
        if not isinstance(asked, Mapping) or not {"memory", "memory_bytes"} & set(asked):
            return None
        memory = asked.get("memory") or asked.get("memory_bytes")
        told = {name: asked[name] for name in (*_OPTIONS, "gpus") if asked.get(name) is not None}
        if memory == AUTO:
            told |= {name: asked[kept] for name, kept in _OF_AUTO.items() if asked.get(kept) is not None}
        try:
            return cls.checked(memory, **told)  # type: ignore[arg-type]
        except InvalidRequest:
            raise
        except (ArithmeticError, AttributeError, TypeError, ValueError) as error:  # anybody may have written it
            raise InvalidRequest("gpu", dict(asked), f"a request for GPU memory ({error})") from error

    def resolved(self, asked: int, known: int) -> GpuRequest:
        """A request of "auto" that asks for so many bytes."""
        return replace(self, asks=(str(asked),), known=known)

    def as_meta(self) -> dict[str, Any]:
        """Plain values for ``job.meta["gpu"]``."""
        told = {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) is not None}
        if self.default is not None:
            own = {kept: getattr(self, name) for name, kept in _OF_AUTO.items() if getattr(self, name)}
            return {"memory": AUTO, **own, **told}
        simple = len(self.asks) == 1 and "x" not in self.asks[0]
        memory = {} if simple else {"memory": list(self.asks)}
        return {"memory_bytes": self.memory_bytes, **memory, **told}

    def ask(
        self, lease_id: str, *, crew: str, job_id: str = "", function: str = "", seat: str = "", sits: bool = False
    ) -> calls.Ask:
        """The request under a name, wherever a worker of this crew sits idle; ``seat``: the asking worker's own.

        ``function`` is on whose account, beside the tenant's.
        """
        asked = self.arguments(lease_id, job_id=job_id, function=function) | {"host": None}
        return calls.ask(self.asks, crew=crew, seat=seat, sits=sits, **asked)

    def arguments(
        self, lease_id: str, *, job_id: str = "", pid: int | None = None, function: str = ""
    ) -> dict[str, Any]:
        """What ``Broker.acquire`` takes beside the memory, on this host's cards."""
        where = {name: getattr(self, name) for name in _SELECTORS if getattr(self, name) is not None}
        return {
            "lease_id": lease_id,
            "ttl": self.ttl if self.ttl is not None else default_ttl(),
            "wait": self.wait if self.wait is not None else WAIT_MOST,
            "host": calls.this_host(),
            "gpu": self.gpu,
            "priority": self.priority,
            "tenant": self.tenant,
            "job_id": job_id and ledger_name(job_id),
            "pid": pid,
            "function": function and function_name(function),
            **where,
        }


_SELECTORS = ("labels", "capability", "mig", "host_memory", "cpus", "placement")
_OPTIONS = ("wait", "ttl", "priority", "tenant", "gpu", "on_lease_lost", "reschedule", *_SELECTORS)
#: Fields of a request of "auto", and their names in ``meta``.
_OF_AUTO = {"default": "default_bytes", "size": "size", "too_little": "too_little_bytes"}


def _stated(memory: object, gpus: int, default: int | str | None, size: float | None) -> int | None:
    """The bytes that the author of a request of "auto" states for its first run; ``None`` for any other request."""
    if memory != AUTO:
        if isinstance(memory, (list, tuple)) and AUTO in memory:
            raise InvalidRequest("memory", memory, f'"{AUTO}" alone: it has no alternatives')
        for field, value in (("default", default), ("size", size)):
            if value is not None:
                raise InvalidRequest(field, value, f'nothing, unless memory="{AUTO}"')
        return None
    if default is None:
        raise InvalidRequest("default", None, f'a size such as "4GiB": what memory="{AUTO}" asks for at first')
    if gpus != 1:
        raise InvalidRequest("gpus", gpus, f'1 where memory="{AUTO}": of several, agents see what they use together')
    return parse_size(default, "default")


def check_ttl(value: float, field: str) -> float:
    """Seconds that a job's lease may live without renewal.

    Raises:
        InvalidRequest: below three seconds or above a day.
    """
    return parse_seconds(value, field, least=TTL_LEAST, most=calls.TTL_MOST) / 1000


def default_ttl() -> float:
    """``GPUBROKER_LEASE_TTL`` in seconds, else 30.

    Raises:
        InvalidRequest: it is not a number from three seconds to a day.
    """
    text = os.environ.get("GPUBROKER_LEASE_TTL")
    if not text:
        return DEFAULT_TTL
    try:
        return check_ttl(float(text), "GPUBROKER_LEASE_TTL")
    except ValueError:
        raise InvalidRequest("GPUBROKER_LEASE_TTL", text, f"seconds from {TTL_LEAST:g} to {calls.TTL_MOST:g}") from None


def ledger_name(job_id: str) -> str:
    """A job's id as the ledger may hold it: RQ also lets one begin with ``_`` or ``-``, or be longer."""
    name = _NOT_A_NAME.sub("-", job_id)[:90]
    return name if name[:1].isalnum() else f"job{name}"


def function_name(text: str) -> str:
    """A function's name as the ledger may hold it: the end of a longer one, since that tells most."""
    name = _NOT_A_NAME.sub("-", text)[-100:].lstrip("-_.")
    return name or "function"


def function_of(job: Job) -> str:
    """The dotted name of a job's function, empty if it cannot be read; nothing is imported for it.

    RQ's own word for it unpickles the arguments too, and with them imports code of the job's: in a worker, before the
    job has its lease, its devices and its caps; and one that cannot be read would end the worker instead of the job.
    """
    try:
        if job.serializer is not PickleSerializer:
            return job.func_name or ""
        import pickletools  # the name is the first text in the pickle

        return next(str(said) for code, said, _ in pickletools.genops(job.data) if "UNICODE" in code.name)
    except (DeserializationError, StopIteration, ValueError):
        return ""


def lease_name(job_id: str, attempt: str) -> str:
    """A lease's id: of one attempt of one job, since RQ may start the next before the last one's lease is back."""
    return f"{ledger_name(job_id)}.{attempt}"
