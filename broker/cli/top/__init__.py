"""`gpubroker top`: the pool on a live screen. What is shown and drawn lives here; what it means, in `broker`."""

from __future__ import annotations

import click

from broker.cli.options import broker_from, pool_options


@click.command()
@pool_options
def top(redis_url: str, pool: str) -> None:
    """Watch the pool live: hosts, cards, leases, waiters, events; drain, undrain and revoke from there. ? is help.

    Needs the extra `top`. Without colour: NO_COLOR=1.
    """
    import sys
    from importlib.util import find_spec

    from broker.errors import BrokerError

    if find_spec("textual") is None:
        raise BrokerError("`gpubroker top` needs Textual: pip install 'gpubroker[top]'")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):  # its keys would be read for ever from what has ended
        raise click.UsageError("`top` wants a terminal; elsewhere there is `gpubroker status`")
    broker = broker_from(redis_url, pool)

    from broker.cli.top.app import Top

    Top(broker).run()
