"""`gpubroker serve`: the pool over HTTP."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from broker.cli.options import pool_options

_DEFAULT_PORT = 8390


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need tokens.")
@click.option("--port", type=click.IntRange(0, 65535), default=_DEFAULT_PORT, show_default=True, help="0: a free one.")
@click.option(
    "--token-file", type=click.Path(dir_okay=False, path_type=Path),
    help="Lines SCOPE:TOKEN, the scope viewer, operator or admin; read when it changes. Or GPUBROKER_HTTP_TOKENS.",
)  # fmt: skip
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A certificate, PEM.")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its key, PEM.")
@click.option("--unit", is_flag=True, help="Print a unit for systemd, and do nothing more.")
@pool_options
def serve(
    host: str,
    port: int,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    unit: bool,
    redis_url: str,
    pool: str,
) -> None:
    """Serve the page at / and the API under /api/, until Ctrl-C.

    Without tokens it listens on this machine alone, and there everybody may do everything.
    """
    if unit:
        click.echo((files("broker.cli") / "gpubroker-serve.service").read_text(encoding="utf-8"), nl=False)
        return
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    try:
        from broker.http.server import run
    except ImportError as error:
        raise click.ClickException(f"{error}; it takes the extra: pip install 'gpubroker[web]'") from None
    from broker.http.settings import HttpSettings

    settings = HttpSettings.from_environment(redis_url=redis_url, pool=pool, token_file=token_file)
    run(settings, host=host, port=port, tls=(tls_cert, tls_key) if tls_cert and tls_key else None, said=click.echo)
