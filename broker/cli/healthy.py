"""`gpubroker healthy`: whether what runs in this container or on this machine does its work, for supervisors."""

from __future__ import annotations

import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from broker.cli.options import broker_from, pool_options

if TYPE_CHECKING:
    from broker.client import Broker

#: A worker of ours says to RQ that it lives every half minute at least, idle or at work.
_WORKER_SILENT_SECONDS = 120.0
_ANSWER_SECONDS = 5.0


@click.command()
@click.argument("what", type=click.Choice(["agent", "worker", "serve"]))
@click.option("--host", envvar="GPUBROKER_HOST", show_envvar=True, help="Of the agent.  [default: this host's name]")
@click.option("--url", default="http://127.0.0.1:8390", show_default=True, help="Of the server, for `serve`.")
@pool_options
def healthy(what: str, host: str | None, url: str, redis_url: str, pool: str) -> None:
    """Exit 0 if it does its work now, else 1 with a line that says why not.

    agent: this host's sample is fresh. worker: an RQ worker of this machine was heard of within two minutes. serve: the
    server answers, and so does its ledger; where it speaks TLS, whoever vouches for its certificate.
    """
    if what == "serve":
        wrong = _server(url)
    elif what == "agent":
        wrong = _agent(broker_from(redis_url, pool), host)
    else:
        wrong = _worker(broker_from(redis_url, pool))
    if wrong:
        click.echo(f"gpubroker: {wrong}", err=True)
        click.get_current_context().exit(1)
    click.echo("healthy")


def _agent(broker: Broker, host: str | None) -> str:
    from broker.calls import check_name, this_host
    from broker.cli.table import ledger_now
    from broker.units import duration

    name = check_name("--host", host or this_host())
    fresh_until, sampled_at = broker.redis.hmget(broker.keys.host(name), "fresh_until", "sampled_at")
    if fresh_until is None:
        return f"no agent publishes for host {name}"
    now = ledger_now(broker)
    silent = int(fresh_until) < now
    return f"the agent of host {name} has been silent for {duration(now - int(sampled_at or 0))}" if silent else ""


def _worker(broker: Broker) -> str:
    from rq.defaults import RQ_KEY_PREFIX

    here, now = socket.gethostname(), float(broker.redis.time()[0])
    heard = [last for name in broker.redis.smembers(f"{RQ_KEY_PREFIX}:workers") for last in _heard(broker, name, here)]
    if not heard:
        return f"RQ knows no worker on {here}"
    silent = now - max(heard)
    return f"no worker on {here} was heard of for {silent:.0f} s" if silent > _WORKER_SILENT_SECONDS else ""


def _heard(broker: Broker, worker: bytes | str, here: str) -> Iterator[float]:
    """When RQ heard last of a worker of this machine, in seconds."""
    hostname, last = broker.redis.hmget(str(worker), "hostname", "last_heartbeat")
    if hostname == here and last:
        yield datetime.fromisoformat(str(last)).replace(tzinfo=UTC).timestamp()


def _server(url: str) -> str:
    if urlsplit(url).scheme not in ("http", "https"):
        raise click.BadParameter("http://HOST:PORT or https://HOST:PORT", param_hint="--url")
    # Nothing is sent or believed here but that somebody answers.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(f"{url.rstrip('/')}/readyz", timeout=_ANSWER_SECONDS) as answer:
            return "" if answer.status == 200 else f"{url} answers {answer.status}"
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code}: its ledger cannot be reached"
    except OSError as error:
        return f"{url} does not answer: {error}"
