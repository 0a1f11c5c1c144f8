"""`gpubroker doctor`: what is wrong with a pool and its server, and how to mend it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from broker.cli.options import broker_from, json_option, pool_options, print_json

if TYPE_CHECKING:
    from broker.cli.examine import Finding
    from broker.fsck import Repair


@click.command()
@click.option("--repair", is_flag=True, help="Recompute every sum and index from the leases.")
@pool_options
@json_option
def doctor(repair: bool, redis_url: str, pool: str, as_json: bool) -> None:
    """Look for what is wrong with the pool and its server; each finding says how to mend it.

    Changes nothing without --repair. Exit codes: 0 all is well, 1 something is wrong.
    """
    from broker import fsck
    from broker.cli.examine import findings

    broker = broker_from(redis_url, pool)
    mended = None
    if repair:
        mended = fsck.repair(broker)
        broker.reap()  # serves those for whom there is room now
    found = findings(broker)
    fine = all(finding.fine for finding in found)
    if as_json:
        facts: dict[str, object] = {"pool": pool, "fine": fine, "findings": [asdict(finding) for finding in found]}
        if mended is not None:
            facts["mended"] = mended.mended
        print_json(facts)
    else:
        _print(found, mended)
    click.get_current_context().exit(0 if fine else 1)


def _print(found: list[Finding], mended: Repair | None) -> None:
    from broker.cli.table import printable

    if mended is not None:
        for part, count in mended.mended.items():
            click.echo(f"mended  {printable(part)}: {count} {'value' if count == 1 else 'values'}")
        if not mended.mended:
            click.echo("mended  nothing: every sum and index followed from the leases")
    for finding in found:
        click.echo(printable(f"{'fine' if finding.fine else 'WRONG':<6}  {finding.about}: {finding.says}"))
        if finding.mend:
            click.echo(printable(f"        {finding.mend}"))
