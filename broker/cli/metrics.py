"""`gpubroker metrics`: what Prometheus would read of the pool, printed once."""

from __future__ import annotations

import click

from broker.cli.options import broker_from, pool_options


@click.command()
@click.option("--journal", is_flag=True, help="Count also what the journal still holds.")
@click.option("--fsck/--no-fsck", default=True, show_default=True, help="Compare the ledger with itself.")
@click.option("--openmetrics", is_flag=True, help="As OpenMetrics instead of Prometheus's text.")
@pool_options
def metrics(journal: bool, fsck: bool, openmetrics: bool, redis_url: str, pool: str) -> None:
    """Print the pool's metrics once, as Prometheus reads them from `gpubroker serve`.

    What a journal tells is counted by who follows it: one look has counted nothing, so its counters stand at 0 unless
    --journal has them count what the journal still holds, which becomes less as it is trimmed.
    """
    broker = broker_from(redis_url, pool)
    try:
        from broker.metrics import Exporter
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise click.ClickException("prometheus_client is missing: pip install 'gpubroker[web]'") from None
    exporter = Exporter(broker, after="0" if journal else None, fsck_seconds=1e9 if fsck else 0)
    accept = "application/openmetrics-text" if openmetrics else ""
    click.echo(exporter.render(accept).decode(), nl=False)
