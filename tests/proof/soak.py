"""A pool under load and faults, every one of its states held against the laws.

``python -m tests.proof.soak --minutes 10 [--seed S] [--json]``; exit status 1 if a law was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.live import Live

from broker import Broker, plans
from broker.audit import Audit
from broker.embedded import EmbeddedServer
from broker.errors import BrokerError
from broker.fsck import differences
from tests.proof.crew import Crew
from tests.proof.faults import WEIGHTS, Faults
from tests.proof.follower import Follower, StreamEnded
from tests.proof.laws import Checker
from tests.proof.proxy import Proxy

_TICK_SECONDS = 0.1
_FAULTS_A_SECOND = 3.0
_RESTART_EVERY_SECONDS = 60.0
Show = Callable[[str], None]
_MOST_LAG_BYTES = 32 << 20
_QUIET_SECONDS = 60.0


@dataclass(slots=True)
class Result:
    """What a soak did and found."""

    seed: int
    seconds: float = 0.0
    transitions: int = 0
    grants: int = 0
    events: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


class Journal:
    """The audit of the whole journal, taken from the stream: the server itself keeps only its end."""

    def __init__(self) -> None:
        """Nothing heard yet."""
        self._account = Audit()
        self._violations: list[str] = []

    def add(self, fields: dict[str, str]) -> None:
        """One more entry; the first of a ledger that was lost begins another account."""
        event = plans.event(fields["stream_id"], {k: v for k, v in fields.items() if k != "stream_id"})
        if event.seq == 1:
            self._violations += self._account.violations
            self._account = Audit()
        self._account.add(event)

    @property
    def violations(self) -> list[str]:
        """What the audit found, over all ledgers."""
        return [f"audit, {text}" for text in self._violations + self._account.violations]


class Soak:
    """One run: a server, its follower, a crew and its faults."""

    def __init__(self, folder: Path, seed: int, *, holders: int = 4, weights: dict[str, float] | None = None) -> None:
        """Prepare everything; nothing runs yet."""
        self.dice = random.Random(seed)
        self.result = Result(seed)
        self.checker = Checker()
        self.journal = Journal()
        self.restarts = 0
        self.server = EmbeddedServer(folder / "data")
        self.notes = folder / "notes"
        self.notes.mkdir()
        self._holders = holders
        self._weights = WEIGHTS if weights is None else weights

    def run(self, seconds: float, show: Show, *, restart_every: float = _RESTART_EVERY_SECONDS) -> Result:
        """Hammer for so long, come to rest, and say what was found."""
        begun = time.monotonic()
        with self.server, Proxy(self.server.host, self.server.port) as proxy:
            self.proxy = proxy
            self.client = redis.Redis(host=self.server.host, port=self.server.port, decode_responses=True)
            self.follower = self._follow(load=False)
            self._configure()
            self.crew = Crew(self.notes, "default", self.dice)
            self.faults = Faults(self.crew, proxy, self.client, self.dice, weights=self._weights,
                                 after_loss=self._configure)  # fmt: skip
            try:
                self._hire()
                self._hammer(seconds, show, restart_every)
            finally:
                self.faults.undo_all()
                fallen = self.crew.stop()
            self.result.violations += [f"{name} died by itself" for name in fallen]
            self._come_to_rest(show)
            self.follower.stop()
        self._sum_up(time.monotonic() - begun)
        return self.result

    def _configure(self) -> None:
        """Short times: what takes seconds in a pool should happen often in a soak."""
        with Broker.from_url(self.server.url) as broker:
            broker.update_config(reclaim_seconds=0.3, claim_seconds=1, waiter_seconds=2, grace_seconds=1)

    def _follow(self, *, load: bool) -> Follower:
        follower = Follower(self.server.host, self.server.port, self.checker, on_event=self.journal.add)
        return follower.start(load=load)

    def _hire(self) -> None:
        direct, harmed = self.server.url, self.proxy.url
        self.crew.hire("agents", "agents", direct)
        self.crew.hire("operator", "operator", harmed)
        for i in range(self._holders):
            self.crew.hire(f"holder{i}", "holder", harmed if i % 2 else direct)
        for i in range(2):
            self.crew.hire(f"starter{i}", "starter", harmed if i % 2 else direct)

    def _hammer(self, seconds: float, show: Show, restart_every: float) -> None:
        begun = restarted = time.monotonic()
        while (now := time.monotonic()) - begun < seconds:
            self.faults.undo_due()
            if self.dice.random() < _FAULTS_A_SECOND * _TICK_SECONDS:
                self.faults.inject()
            if now - restarted > restart_every:
                restarted = now
                self._restart_server()
            if self.follower.broken:
                raise StreamEnded(self.follower.broken)
            self._keep_in_step()
            show(self._line(now - begun, seconds))
            time.sleep(_TICK_SECONDS)

    def _keep_in_step(self) -> None:
        """If the checks fall behind, the crew rests until they are not."""
        if self.follower.lag(self.client) > _MOST_LAG_BYTES:
            self.crew.signal_all(signal.SIGSTOP)
            self.follower.catch_up(self.client, timeout=300)
            self.crew.signal_all(signal.SIGCONT)

    def _restart_server(self) -> None:
        """SIGKILL the server and start it on what it kept. Nobody may write until the copy was read anew."""
        self.faults.undo_all()
        self.crew.signal_all(signal.SIGSTOP)
        self.proxy.refuse()
        self.follower.catch_up(self.client)
        # A write may lag behind its reply while the disk is busy; what a loss does is another fault's matter.
        while int(self.client.info("persistence")["aof_buffer_length"]):
            time.sleep(_TICK_SECONDS)
        self.follower.stop()
        before = self.checker.account.mirror.hash("ledger").get("seq", "0")
        os.kill(self.server.pid, signal.SIGKILL)
        self.server.stop()
        self.server.start()
        self.follower = self._follow(load=True)
        after = self.checker.account.mirror.hash("ledger").get("seq", "0")
        if before != after:
            self.result.violations.append(f"the server forgot: event {before} before its end, {after} after")
        self.restarts += 1
        self.proxy.heal()
        self.crew.signal_all(signal.SIGCONT)

    def _line(self, done: float, seconds: float) -> str:
        counts = {
            "transitions": self.checker.transitions,
            "grants": self.checker.kinds["granted"],
            "faults": self.faults.injected.total() + self.restarts,
            "violations": self.checker.violation_count,
        }
        return f"{done:5.0f} of {seconds:.0f} s   " + "   ".join(f"{count:,} {what}" for what, count in counts.items())

    def _come_to_rest(self, show: Show) -> None:
        """Law 3: with everyone gone, whatever was held or waited for ends by its time."""
        ends = time.monotonic() + _QUIET_SECONDS
        with Broker.from_url(self.server.url) as broker:
            while (broker.leases() or broker.waiters()) and time.monotonic() < ends:
                broker.reap()
                show("coming to rest")
                time.sleep(_TICK_SECONDS)
            for what, left in (("lease", broker.leases()), ("waiter", broker.waiters())):
                self.result.violations += [f"law 3: {what} {one.id} is still there" for one in left]
            self.result.violations += [f"fsck: {text}" for text in differences(broker)]
        try:
            self.follower.catch_up(self.client)
        except (StreamEnded, TimeoutError) as error:
            self.result.violations.append(str(error))

    def _sum_up(self, seconds: float) -> None:
        result, checker = self.result, self.checker
        result.seconds = round(seconds, 1)
        result.transitions = checker.transitions
        result.grants = checker.kinds["granted"]
        result.events = dict(sorted(checker.kinds.items()))
        result.faults = dict(sorted((self.faults.injected + Counter({"restart": self.restarts})).items()))
        result.violations += [str(violation) for violation in checker.violations]
        shown = sum(len(violation.found) for violation in checker.violations)
        if checker.violation_count > shown:
            result.violations.append(f"and {checker.violation_count - shown} more")
        result.violations += self.journal.violations + self.crew.complaints()


def soak(seconds: float, seed: int, show: Show = lambda line: None, **options: Any) -> Result:
    """Run one soak in a folder of its own, which is gone afterwards."""
    run_options = {name: options.pop(name) for name in ("restart_every",) if name in options}
    with tempfile.TemporaryDirectory(prefix="gpubroker-soak-") as folder:
        return Soak(Path(folder), seed, **options).run(seconds, show, **run_options)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    console = Console(stderr=True)
    try:
        if console.is_terminal:
            with Live(console=console, transient=True) as live:
                result = soak(options.minutes * 60, seed, live.update)
        else:
            result = soak(options.minutes * 60, seed)
    except BrokerError as error:
        console.print(str(error))
        return 2
    if options.json:
        print(json.dumps(asdict(result), indent=2))
    else:
        _print(result)
    return 1 if result.violations else 0


def _print(result: Result) -> None:
    print(f"seed {result.seed}, {result.seconds} s: {result.transitions} transitions checked, {result.grants} grants")
    for what, counts in (("events", result.events), ("faults", result.faults)):
        print(f"{what}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    for text in result.violations:
        print(text)
    print(f"{len(result.violations)} violations")


if __name__ == "__main__":
    sys.exit(main())
