"""The journal's kinds: what each tells, with the fields that scripts write, and what it wants of a person on call."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from importlib.resources import files

from broker.journal import JOURNAL_KINDS
from docs.make.markdown import code, table

#: Kind: what happened; what a person on call does about it, empty where nothing is wanted.
EVENTS = {
    "queued": ("a request found no room and waits", ""),
    "granted": ("a request got its memory", ""),
    "claimed": ("the waiter took up what it was granted", ""),
    "unclaimed": (
        "nobody took up a grant within `claim_seconds`; the bytes moved on",
        "now and then: nothing. Often: a worker hangs between its grant and its job; look at the workers of that queue",
    ),
    "cancelled": ("a waiting request was taken back, ran out of time, or can never be", ""),
    "dropped": (
        "a waiter was silent for `waiter_seconds` and lost its place",
        "its process is gone or hangs; if nobody killed it, look at that machine",
    ),
    "reserved": ("cards are kept for a waiter that was passed `bypass_max` times", ""),
    "unreserved": ("they are kept no longer, and why", ""),
    "resized": ("a lease grew or shrank", ""),
    "revoked": (
        "somebody asked for a lease's end: a person, a higher priority, or an agent",
        "`reason` says who and why; the job ends by `revoke_at`",
    ),
    "released": ("a lease was given back", ""),
    "expired": (
        "a lease's time was over before it was given back; its bytes still count",
        "its holder died or could not reach Redis: look for the job of `id`, and at its machine",
    ),
    "reclaimed": ("an expired lease's bytes came back: its process was seen gone, or the lock delay passed", ""),
    "revived": ("an expired lease whose process the agent sees again counts as active", ""),
    "registered": ("a holder brought back a lease that the ledger had lost", ""),
    "adopted": ("a process that had asked nobody got a lease of what it uses", ""),
    "overuse": (
        "a lease's process takes more than it borrowed",
        'tell the job\'s author to ask for `used_bytes`, or use `memory="auto"`; set `overuse_policy` if it goes on',
    ),
    "idle": (
        "a lease's cards have done nothing for `idle_seconds`",
        "ask its owner; `gpubroker revoke ID` takes it back",
    ),
    "state": (
        "a card's state is another one",
        "`to` CRITICAL: look at its fan and air. `to` UNAVAILABLE: `reason` says whether agent, driver or card failed",
    ),
    "warning": (
        "a card's temperature will cross a threshold within `warning_seconds`",
        "time to look at its fan, or to drain it before it throttles",
    ),
    "short": (
        "a card's leases no longer fit, since somebody without a lease took its memory",
        "`gpubroker processes` names the process: end it, or `gpubroker adopt` it",
    ),
    "xid": (
        "the driver told an error of this card",
        "look `xid` up in NVIDIA's list of XID errors; the agent drains the card where that is needed",
    ),
    "drained": (
        "a card or host was taken out of service, and `by` whom",
        "`by` health: the card is sick, see `reason`; it is opened after `health_clean_seconds` of good readings",
    ),
    "undrained": ("it is open again", ""),
    "joined": ("a host's agent published for the first time, or again", ""),
    "left": ("an agent ended and took its cards with it", "if nobody ended it: start the agent of `host` again"),
    "config": ("configuration was changed; its fields are the names that were, and their values", ""),
    "tenant": ("a tenant's quota or weight was set", ""),
    "clock": (
        "the server's clock made a step",
        "let a time service slew the server's clock; leases do not end meanwhile",
    ),
    "epoch": (
        "the ledger began anew (`born`), or another server took over (`primary`)",
        "`primary`, and nobody did it on purpose: see why the server changed. Holders register by themselves",
    ),
    "settling": (
        "data was lost; nothing new is granted until `settling_until`",
        "wait; then see why the server lost its data: `gpubroker doctor` looks at its append-only file",
    ),
    "repaired": (
        "`doctor --repair` mended values of a part, which is a field of its own",
        "once: nothing. Again: keep the journal and report it",
    ),
}

#: The functions that write an event: which of their arguments is the kind, and where its own fields begin.
_WRITERS = {"journal": (0, 1), "write_event": (0, 1), "end_lease": (2, 3), "grant": (5, 7)}
_WRITER = re.compile(rf"(?<!function )\b({'|'.join(_WRITERS)})\(")
_COMPARED = re.compile(r"[=~]= '[^']*'")
_WORD = re.compile(r"'([a-z_]+)'")


def page() -> str:
    """Kind, what it tells, its own fields."""
    told = fields()
    rows = [(code(kind), EVENTS[kind][0], ", ".join(map(code, told[kind]))) for kind in EVENTS]
    return table(("kind", "what happened", "fields"), rows)


def on_call() -> str:
    """Kinds that want something of a person."""
    return table(
        ("event", "what it wants of you"), [(code(kind), wants) for kind, (_, wants) in EVENTS.items() if wants]
    )


def fields() -> dict[str, tuple[str, ...]]:
    """Every kind that the scripts write, with the names of its fields in their order.

    Raises:
        ValueError: scripts, ``broker/journal.py`` and this page do not name the same kinds.
    """
    found = written()
    unlike = (set(found) ^ set(EVENTS)) | (set(EVENTS) ^ JOURNAL_KINDS)
    if unlike:
        names = ", ".join(sorted(unlike))
        raise ValueError(f"docs/make/events.py, broker/journal.py and broker/lua do not all name these events: {names}")
    return found


def written() -> dict[str, tuple[str, ...]]:
    """What ``broker/lua`` writes, read from its text: kinds and the names of their fields."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    through: dict[str, dict[str, None]] = defaultdict(dict)  # kinds that a function is told, and what is added
    ending: dict[str, None] = {}
    for text in _texts():
        for writer, arguments in _calls(text):
            at, fields_at = _WRITERS[writer]
            names = dict.fromkeys(_names(arguments[fields_at:]))
            kinds = _WORD.findall(_COMPARED.sub("", arguments[at])) if len(arguments) > at else []
            for kind in kinds:
                at_once = found[kind] if fields_at == 1 else through[f"{writer} {kind}"]
                at_once.update(names)
            if writer == "journal" and arguments[:1] == ["kind"]:
                ending = names
    for told, names in through.items():
        writer, _, kind = told.partition(" ")
        found[kind] |= (ending if writer == "end_lease" else found["granted"]) | names
    return {kind: tuple(names) for kind, names in found.items()}


def _texts() -> Iterator[str]:
    for folder in (files("broker.lua"), files("broker.lua") / "include"):
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if entry.name.endswith(".lua"):
                yield re.sub(r"--.*", "", entry.read_text(encoding="utf-8"))


def _calls(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each call of a writer, with its arguments as they are written."""
    for call in _WRITER.finditer(text):
        depth, arguments = 1, [""]
        for sign in text[call.end() :]:
            depth += (sign in "({[") - (sign in ")}]")
            if depth == 0:
                break
            if sign == "," and depth == 1:
                arguments.append("")
            else:
                arguments[-1] += sign
        yield call[1], [" ".join(argument.split()) for argument in arguments if argument.strip()]


def _names(arguments: list[str]) -> Iterator[str]:
    """The names among names and values; a part that is only there at times is unpacked."""
    for place, argument in enumerate(arguments):
        if argument.startswith("unpack("):
            yield from _WORD.findall(argument)[:1]
        elif place % 2 == 0 and (found := _WORD.fullmatch(argument)):
            yield found[1]
