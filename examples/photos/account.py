"""The demo's last words: what happened, by the event journal, and where to look next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import TYPE_CHECKING

from broker.units import format_size

if TYPE_CHECKING:
    from .demo import Run

_MOST_FAILURES = 20


def account(run: Run, done: int, failures: Sequence[str], problems: Sequence[str]) -> Iterator[str]:
    """Line by line; ``failures`` are lost photos, ``problems`` broken laws and differences in the ledger, in words."""
    audit = run.audit
    throttles = sum(card.throttles for card in audit.cards.values())
    recoveries = sum(card.recoveries for card in audit.cards.values())
    waits = audit.waits_ms
    yield ""
    yield f"photos done        {done} of {len(run.photos)}"
    yield f"photos lost        {len(run.photos) - done}"
    yield from (f"  {failure}" for failure in failures[:_MOST_FAILURES])
    yield f"time               {run.seconds:.1f} s, {done / max(run.seconds, 0.001):.1f} photos a second"
    yield from _cards(run)
    yield f"leases             {audit.grants} granted, {len(waits)} waited" + (
        f", on average {mean(waits) / 1000:.2f} s, at most {max(waits) / 1000:.2f} s" if waits else ""
    )
    yield f"throttles seen     {throttles}, recovered {recoveries}"
    yield f"worker killed      {_killed(run)}"
    yield f"laws               {len(problems)} broken, by {audit.events} events of the journal"
    yield from (f"  {problem}" for problem in problems)
    yield f"outputs            {run.out}"
    yield f"                   {run.out / 'scores.csv'}"
    yield f"                   {run.out / 'contact-sheet.jpg'}"
    yield ""
    yield from _where_to_look(run)


def _killed(run: Run) -> str:
    if not run.killed:
        return "none (too few photos to be in the middle of one)"
    again = f"its job ran again: {', '.join(run.recovered)}" if run.recovered else "its photo had just come out"
    return f"{run.killed}; {again}"


def _cards(run: Run) -> Iterator[str]:
    yield "highest leased of budget"
    for gpu in run.broker.gpus():
        card = run.audit.cards.get(gpu.uuid)
        if card is not None:
            budget = card.budget_at_peak_bytes or gpu.budget_bytes
            yield f"  {gpu.host} card {gpu.index}   {format_size(card.peak_bytes)} of {format_size(budget)}"


def _where_to_look(run: Run) -> Iterator[str]:
    keys, port = run.broker.keys, run.stack.server.port
    gpus = run.broker.gpus()
    yield "Look around with redis-cli" + (":" if run.stack.keeps else " (while it runs: `gpubroker demo --keep`):")
    if gpus:
        yield f"  redis-cli -p {port} HGETALL {shlex.quote(keys.gpu(gpus[-1].uuid))}"
        yield f"  redis-cli -p {port} XREVRANGE {shlex.quote(keys.metrics(gpus[-1].host))} + - COUNT 3"
    yield f"  redis-cli -p {port} ZRANGE {shlex.quote(keys.leases)} 0 -1 WITHSCORES"
    yield f"  redis-cli -p {port} XREVRANGE {shlex.quote(keys.events)} + - COUNT 10"
    yield f"  gpubroker status --redis-url {run.stack.url}"
