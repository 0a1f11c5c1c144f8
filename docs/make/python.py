"""The reference of the Python faces, from signatures and docstrings: what ``__all__`` names, and nothing inside."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from pydantic import BaseModel

import broker
import worker_hooks
from broker import explain, models, trend
from broker.values import State
from docs.make.markdown import code, docstring, table

#: Methods of the classes of the face that workers and agents of this house use among themselves.
INNER = frozenset({
    "abandoned", "call", "call_after", "check", "epoch", "last_event_id", "learn", "lease_handle", "peak_bytes",
    "prolong", "reap", "release_orphan", "right_size", "run", "started", "unknown",
})  # fmt: skip
#: What methods of the face answer with.
ANSWERS = (
    models.Gpu, models.LeaseRecord, models.Waiter, models.Sample, models.Event, models.Tenant, models.FunctionAccount,
    trend.Trend, explain.Explanation, explain.CardVerdict,
)  # fmt: skip
_WIDTH = 96


def face(module: ModuleType) -> Callable[[], str]:
    """The page of a package in the order of ``__all__``; what is for an event loop, and errors, at the end."""
    return lambda: "\n".join(_module(module))


def answers() -> str:
    """The records that methods answer with."""
    return "\n".join(_record(kind) for kind in ANSWERS)


def _module(module: ModuleType) -> Iterator[str]:
    ordered = sorted(module.__all__, key=lambda name: name.startswith("Async"))
    named = [(name, getattr(module, name)) for name in ordered]
    for name, thing in named:
        if _is_error(thing):
            continue
        if inspect.isclass(thing):
            yield _class(name, thing)
        else:
            yield f"### {name}\n\n{_signature(name, thing)}\n{docstring(inspect.getdoc(thing) or '')}\n"
    errors = [(code(name), _first(thing)) for name, thing in named if _is_error(thing)]
    if errors:
        yield f"### Errors\n\nEach is a `BrokerError`.\n\n{table(('error', 'when'), errors)}"


def _is_error(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, broker.BrokerError)


def _first(thing: Any) -> str:
    return docstring(inspect.getdoc(thing) or "")


def _class(name: str, kind: type) -> str:
    out = [f"### {name}\n", docstring(inspect.getdoc(kind) or ""), ""]
    if issubclass(kind, State):
        out.append(table(("name", "speed"), [(code(one.name), f"{one.speed}") for one in kind]))
        return "\n".join(out)
    if dataclasses.is_dataclass(kind):
        out.append(_fields(kind))
        return "\n".join(out)
    if kind.__module__.startswith("worker_hooks"):  # the rest of it is RQ's, or inside
        if "__init__" in vars(kind) and not issubclass(kind, BaseException):
            out.insert(1, _signature(name, kind.__init__, returns=False))
        return "\n".join(out)
    for member, thing in members(kind):
        shown = f"#### {name}.{member} {{ #{name}.{member} }}\n"
        if isinstance(thing, property):
            out.append(f"{shown}\n{docstring(inspect.getdoc(thing) or '')}\n")
        else:
            plain = thing.__func__ if isinstance(thing, (classmethod, staticmethod)) else thing
            out.append(f"{shown}\n{_signature(member, plain)}\n{docstring(inspect.getdoc(plain) or '')}\n")
    return "\n".join(out)


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties, those of the class itself before those of the classes that it stands on."""
    seen = set(INNER)
    for one in kind.__mro__:
        if not one.__module__.startswith(("broker", "worker_hooks")):
            continue
        for name, thing in vars(one).items():
            if name.startswith("_") or name in seen or not _is_member(thing):
                continue
            seen.add(name)
            yield name, thing


def _is_member(thing: Any) -> bool:
    return isinstance(thing, (property, classmethod, staticmethod)) or inspect.isfunction(thing)


class _Told:
    """An annotation that shows itself as it was written."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _signature(name: str, thing: Any, *, returns: bool = True) -> str:
    signature = inspect.signature(thing)
    if not returns:
        signature = signature.replace(return_annotation=inspect.Signature.empty)
    told = [
        parameter.replace(annotation=_told(parameter.annotation))
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    shown = signature.replace(parameters=told, return_annotation=_told(signature.return_annotation))
    awaited = "await " if inspect.iscoroutinefunction(thing) else ""
    text = f"{awaited}{name}{shown}"
    if len(text) > _WIDTH:
        text = f"{awaited}{name}(\n" + "".join(f"    {line},\n" for line in _parameters(shown)) + ")"
        if shown.return_annotation is not inspect.Signature.empty:
            text += f" -> {shown.return_annotation!r}"
    return f"```python\n{text}\n```\n"


def _parameters(signature: inspect.Signature) -> Iterator[str]:
    starred = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            starred = True
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        yield str(parameter)


def _told(annotation: Any) -> Any:
    if annotation in (inspect.Parameter.empty, None):
        return annotation
    return _Told(annotation if isinstance(annotation, str) else inspect.formatannotation(annotation))


def _record(kind: type) -> str:
    return f"### {kind.__name__}\n\n{docstring(inspect.getdoc(kind) or '')}\n\n{_fields(kind)}"


def _fields(kind: Any) -> str:
    if issubclass(kind, BaseModel):
        rows = [(name, _plain(field.annotation), not field.is_required()) for name, field in kind.model_fields.items()]
    else:
        rows = [(field.name, str(field.type), False) for field in dataclasses.fields(kind)]
    told = [(code(name), code(shown), "may be absent" if absent else "") for name, shown, absent in rows]
    told += [
        (code(name), "", _first(thing))
        for name, thing in vars(kind).items()
        if isinstance(thing, property) and not name.startswith("_")
    ]
    return table(("name", "type", ""), told)


def _plain(annotation: Any) -> str:
    shown = inspect.formatannotation(annotation)
    for module in ("broker.models.", "broker.values.", "typing."):
        shown = shown.replace(module, "")
    return shown


BROKER = face(broker)
WORKER_HOOKS = face(worker_hooks)
