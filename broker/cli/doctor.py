"""`gpubroker doctor`: what is wrong with a pool and its server, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli.options import broker_from, json_option, pool_options, print_json

if TYPE_CHECKING:
    from broker.doctor import Finding, Look
    from broker.fsck import Repair

#: Looks of other houses, which `broker` does not import: functions of a broker and RQ's URL that give findings.
_LOOKS_GROUP = "gpubroker.doctor"
_MARKS = {"fine": ("fine", "green"), "warning": ("warn", "yellow"), "wrong": ("WRONG", "red")}


@click.command()
@click.option("--repair", is_flag=True, help="Recompute every sum and index from the leases.")
@click.option("--rq-url", envvar="RQ_REDIS_URL", show_envvar=True, help="RQ's Redis.  [default: the ledger's]")
@pool_options
@json_option
def doctor(repair: bool, rq_url: str | None, redis_url: str, pool: str, as_json: bool) -> None:
    """Look for what is wrong with the pool, its server and RQ beside it; each finding says how to mend it.

    Changes nothing without --repair. Exit codes: 0 nothing is wrong (a warning is not), 1 something is wrong.
    """
    from broker import fsck
    from broker.doctor import findings

    broker = broker_from(redis_url, pool)
    mended = None
    if repair:
        mended = fsck.repair(broker)
        broker.reap()  # serves those for whom there is room now
    found = findings(broker, _looks(), rq_url or redis_url)
    fine = not any(finding.severity == "wrong" for finding in found)
    if as_json:
        facts: dict[str, object] = {"pool": pool, "fine": fine, "findings": [finding.as_dict() for finding in found]}
        if mended is not None:
            facts["mended"] = mended.mended
        print_json(facts)
    else:
        _print(found, mended)
    click.get_current_context().exit(0 if fine else 1)


def _looks() -> list[Look]:
    from importlib.metadata import entry_points

    return [entry.load() for entry in sorted(entry_points(group=_LOOKS_GROUP), key=lambda entry: entry.name)]


def _print(found: list[Finding], mended: Repair | None) -> None:
    from broker.cli.words import printable

    if mended is not None:
        for part, count in mended.mended.items():
            click.echo(f"mended  {printable(part)}: {count} {'value' if count == 1 else 'values'}")
        if not mended.mended:
            click.echo("mended  nothing: every sum and index followed from the leases")
    for finding in found:
        mark, colour = _MARKS[finding.severity]
        click.echo(f"{click.style(f'{mark:<6}', fg=colour)}  {printable(f'{finding.about}: {finding.says}')}")
        if finding.mend and not finding.fine:
            click.echo(printable(f"        {finding.mend}"))
