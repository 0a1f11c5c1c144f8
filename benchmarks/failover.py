"""How long a pool on a cluster stands still when its master dies.

Method: a real cluster of three masters on loopback, the first with a replica, nothing persisted; a pool on that one
with leases that are held. The master is killed with SIGKILL. From that moment: until one holder's renewal succeeds,
which asks all the while, and until a new lease is granted. The first is the time that the other masters take to agree
that it is gone (``cluster-node-timeout``) and to promote the replica; the second adds the pool's ``grace_seconds``, in
which holders bring back what the replica may have missed. Another cluster each time; medians where there are several.

``python -m benchmarks.failover [--long]``
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

import click

from benchmarks import frame
from benchmarks.cluster_servers import ClusterServers
from benchmarks.filled import Size, fill
from broker import Broker, BrokerError
from broker.units import MIB

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The pool's, for this measurement; it is 15 by default.
GRACE_SECONDS = 2.0
#: What is aimed at: seconds until a renewal succeeds, beyond the timeout after which the master counts as gone.
BEYOND_MOST = 3.0
_PAUSE_SECONDS, _AT_MOST_SECONDS = 0.01, 120.0


@dataclass(frozen=True, slots=True)
class Fall:
    """What happened once."""

    timeout_seconds: float
    #: Seconds from the kill until a renewal succeeded, and until something new was lent.
    renewed: float
    lent: float
    #: Leases that were held before and are there afterwards, of how many.
    kept: int
    held: int


def fall(timeout_seconds: float, grace_seconds: float = GRACE_SECONDS, held: int = 20) -> Fall:
    """Kill the master of a pool, and wait until all is well."""
    with ClusterServers(3, replica=True, timeout_ms=round(1000 * timeout_seconds)) as servers:
        victim = servers.masters[0]
        with Broker.from_url(servers.url, pool=servers.pools(1)[0]) as broker:
            fill(broker, Size(8, 0, 0))
            broker.update_config(grace_seconds=grace_seconds)
            leases = [broker.acquire(MIB, lease_id=f"held-{at}", ttl=600) for at in range(held)]
            victim.process.kill()
            begun = time.monotonic()
            _until_done(lambda: leases[0].renew())
            renewed = time.monotonic() - begun
            for lease in leases[1:]:
                lease.renew()
            _until_done(lambda: broker.acquire(MIB, lease_id="new"))
            lent = time.monotonic() - begun
            there = {lease.id for lease in broker.leases()}
            return Fall(timeout_seconds, renewed, lent, sum(lease.id in there for lease in leases), held)


def _until_done(call: Callable[[], object]) -> None:
    """Ask again and again until it is not refused."""
    deadline = time.monotonic() + _AT_MOST_SECONDS
    while True:
        try:
            call()
        except BrokerError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def draw(found: frame.Found, figure: Figure) -> None:
    """Seconds until it goes on, by the timeout."""
    panel = figure.subplots()
    falls = found.raw["falls"]
    for key, label, colour in (("lent", "something new is lent", "C1"), ("renewed", "a renewal succeeds", "C0")):
        panel.scatter([one["timeout_seconds"] for one in falls], [one[key] for one in falls], label=label, color=colour)
    most = max(one["timeout_seconds"] for one in falls)
    panel.plot([0, most], [0, most], ":", color="grey", label="the timeout itself")
    panel.set_xlabel("cluster-node-timeout, seconds")
    panel.set_ylabel("seconds after the master was killed")
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
    panel.legend(frameon=False)
    panel.grid(alpha=0.3)
    panel.set_title(f"How long a pool stands still (grace_seconds {GRACE_SECONDS:g})")


@click.command()
@frame.options
def main(run: frame.Run) -> None:
    """Print seconds until holders and askers are served again."""
    timeouts, turns = ((1.0, 3.0, 5.0, 15.0), 5) if run.long else ((1.0, 3.0), 1)
    falls = [fall(timeout) for _ in range(turns) for timeout in timeouts]
    rows: list[list[frame.Cell]] = []
    for timeout in timeouts:
        some = [one for one in falls if one.timeout_seconds == timeout]
        rows.append([
            f"{timeout:g} s", median(one.renewed for one in some), median(one.lent for one in some),
            f"{sum(one.kept for one in some)} of {sum(one.held for one in some)}",
        ])  # fmt: skip
    table = frame.Table(
        f"Seconds after the master was killed, grace_seconds {GRACE_SECONDS:g}",
        ["cluster-node-timeout", "a renewal succeeds", "something new is lent", "leases kept"], rows,
    )  # fmt: skip
    beyond = max(one.renewed - one.timeout_seconds for one in falls)
    lost = sum(one.held - one.kept for one in falls)
    goals = [
        frame.Goal("seconds until a renewal succeeds beyond the timeout, at worst", beyond, most=BEYOND_MOST),
        frame.Goal("leases lost", lost, most=0),
    ]
    raw = {"falls": [asdict(one) for one in falls], "grace_seconds": GRACE_SECONDS}
    title, method = "When a pool's master dies", __doc__.split("\n\n")[1]
    run.tell(frame.Found("failover", title, method, [table], goals, raw), draw)


if __name__ == "__main__":
    main()
