"""What the doctor may find: what each finding means and wants of a person on call, held against the doctor's code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from docs.make.markdown import code, table

#: What a finding is about, by the first word that the doctor prints: what is wrong then, and what it wants of you.
FINDINGS = {
    "server": (
        "the server is too old, or does not say what it is",
        "use Redis 7.0 or Valkey 7.2, or a newer one",
    ),
    "persistence": (
        "the server keeps no append-only file, or could not write it",
        "switch `appendonly` on; if it is on, look at the server's log and disk. Until then a restart loses leases",
    ),
    "eviction": (
        "a full server would throw keys away, leases too: an evicted lease is lent twice",
        "`maxmemory-policy noeviction`, now and in the server's configuration file",
    ),
    "memory": (
        "the server is nearly full: soon nothing new is granted; what is held can still be renewed and released",
        "raise `maxmemory`, or keep less history: `history_size`, `events_max`",
    ),
    "clock": (
        "the server's clock stepped back; the ledger's own went on",
        "nothing at once. Let a time service slew that clock instead of setting it",
    ),
    "epoch": (
        "data was lost, or another server took over: holders register what they hold, nothing new is granted",
        "wait as long as it says; then look why the server changed",
    ),
    "agents": ("no machine publishes", "start `gpubroker agent` on each machine with GPUs"),
    "host": (
        "a machine's agent is silent, or its driver does not answer: nothing is lent there; running leases stay",
        "start its agent again, or look at its driver (`nvidia-smi` there); gone for good: `gpubroker retire HOST`",
    ),
    "cards": (
        "no card lends at all",
        "`gpubroker status` says why for each; `gpubroker undrain` opens what a person drained",
    ),
    "GPU": (
        "a card's leases no longer fit, since processes without a lease took its memory",
        "`gpubroker processes` names them: end them, or `gpubroker adopt` them",
    ),
    "lease": (
        "its time was over more than a minute ago and its process still has the memory",
        "end that process on that machine; the bytes come back by themselves",
    ),
    "leases": ("more leases of that kind than are named", "`gpubroker leases` shows them all"),
    "waiter": (
        "it waits although there is room, or waits for what can never be",
        "`gpubroker explain ID` says which: `doctor --repair` for the first, a smaller request for the second",
    ),
    "waiters": ("", ""),
    "rights": (
        "the user of this URL may not do what agents and workers do; who only looks need not",
        "give the user of agents and workers the rights of [a user with few](deployments.md#a-user-with-few-rights)",
    ),
    "drivers": ("", ""),
    "rq": (
        "it was not said where RQ's server is, or it cannot be reached",
        "`gpubroker doctor --rq-url URL`, or `RQ_REDIS_URL`",
    ),
    "queue": (
        "jobs that borrow wait in a queue that no worker of ours serves",
        "start `gpubroker worker --queue QUEUE`; a plain `rq worker` keeps itself busy with a job that waits for room",
    ),
    "worker": (
        "it runs an RQ that is too old, or its last job's process is gone",
        "upgrade RQ on that machine and start it again; look at its log",
    ),
    "workers": ("more workers of that kind than are named", "upgrade RQ on their machines"),
    "ledger": (
        "a sum or index does not follow from the leases",
        "`gpubroker doctor --repair` recomputes it; if it comes again, keep the journal and report it",
    ),
}
#: Where doctors' looks are: the pool's own, and those of other houses.
_HOUSES = ("broker", "worker_hooks", "agent")


def page() -> str:
    """What it is about, what is wrong, what it wants; only of what this doctor can find."""
    known = abouts()
    return table(
        ("finding", "what is wrong", "what it wants of you"),
        [(code(about), *told) for about, told in FINDINGS.items() if about in known and told[0]],
    )


def abouts() -> set[str]:
    """What findings are about, by their first word, read from the code that makes them."""
    return {about for path in _sources() for about in _abouts(path)}


def _sources() -> Iterator[Path]:
    for house in _HOUSES:
        spec = find_spec(house)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield from Path(folder).rglob("*.py")


def _abouts(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    if "Finding(" not in text:
        return
    tree = ast.parse(text)
    named = {target: value for node in ast.walk(tree) for target, value in _assigned(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding" and node.args:
            told = node.args[0]
            if word := _first_word(named.get(told.id, told) if isinstance(told, ast.Name) else told):
                yield word


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names and what they are set to, also where several are set at once."""
    if not isinstance(node, ast.Assign):
        return
    for target in node.targets:
        if isinstance(target, ast.Name):
            yield target.id, node.value
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            for name, value in zip(target.elts, node.value.elts, strict=False):
                if isinstance(name, ast.Name):
                    yield name.id, value


def _first_word(told: ast.expr) -> str:
    parts = told.values if isinstance(told, ast.JoinedStr) else [told]
    words = " ".join(
        str(part.value) for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )
    return next(iter(words.split()), "")
