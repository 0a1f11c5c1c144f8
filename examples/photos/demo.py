"""`gpubroker demo`: the photo pipeline on three simulated machines, with a hot card and a killed worker on the way."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import redis
from rq import Queue, Worker
from rq.job import Job

from broker.audit import Audit
from broker.client import Broker
from broker.errors import InvalidRequest
from broker.fsck import differences
from broker.models import Event
from broker.stack import Stack

from .account import account
from .files import output_name
from .jobs import QUEUE, enhance
from .process import PhotoResult
from .report import contact_sheet, write_scores
from .screen import Screen, screen_for
from .source import find_photos, make_folder

_HOSTS = ("studio-a", "studio-b", "studio-c")
_WORKERS_A_HOST = 4  # two cards a host lend to one job each: two workers wait at any time
_SPEC = "2x6GiB,tau=1.5"
_HOT_SPEC = "2x6GiB,tau=1.5,hot=1"  # the second card of the last host is badly cooled
_KILL_AT = 0.15  # share of the photos done when a worker is killed
_READY_SECONDS = 40.0
_PATIENCE_SECONDS = 600.0  # without any photo done or failed
_LOOK_SECONDS = 0.2
_RECOVERY_SECONDS = 20.0

#: A studio's defaults, in fast motion: a minute must show what takes a quarter of an hour.
_FAST_MOTION: dict[str, Any] = {
    "monitor_interval": 0.5,
    "throttle_cooldown_seconds": 3,
    "critical_pause_seconds": 3,
    "reclaim_seconds": 1,
    "events_max": 200_000,
}
_LEASE_TTL_SECONDS = 4


@dataclass
class Run:
    """One demo: where things lie and what is known so far."""

    stack: Stack
    source: Path
    out: Path
    photos: list[Path]
    audit: Audit
    job_ids: list[str] = field(default_factory=list)
    killed: str = ""
    abandoned: set[str] = field(default_factory=set)
    recovered: list[str] = field(default_factory=list)
    started: float = 0.0
    seconds: float = 0.0
    settled: int = 0
    progressed: float = 0.0

    @property
    def broker(self) -> Broker:
        """A broker on the demo's own server."""
        return self.stack.broker

    @cached_property
    def queue(self) -> Queue:
        """The photos' queue, on the same server."""
        return Queue(QUEUE, connection=redis.Redis.from_url(self.stack.url))

    def counts(self) -> tuple[int, int]:
        """Photos done and photos failed, as RQ's own registries have them."""
        return len(self.queue.finished_job_registry), len(self.queue.failed_job_registry)

    def failures(self) -> list[str]:
        """Each photo that did not come out, with its job's last word."""
        jobs = Job.fetch_many(self.job_ids, connection=self.queue.connection)
        told = {photo: job for photo, job in zip(self.photos, jobs, strict=False) if job is None or not job.is_finished}
        return [
            f"{photo}: {'never ran' if job is None or not job.exc_info else job.exc_info.strip().splitlines()[-1]}"
            for photo, job in told.items()
        ]

    def note(self, event: Event) -> None:
        """Take an event into account; a job that is granted memory after it lost its lease runs again."""
        self.audit.add(event)
        if event.kind == "expired":
            self.abandoned.add(event.fields["id"].rpartition(".")[0])
        elif event.kind == "granted" and event.fields["job_id"] in self.abandoned:
            self.recovered.append(event.fields["job_id"])

    def results(self) -> list[PhotoResult]:
        """What each finished job returned."""
        jobs = Job.fetch_many(self.job_ids, connection=self.queue.connection)
        return [PhotoResult(**(job.return_value() or {})) for job in jobs if job is not None and job.is_finished]


@click.command()
@click.option("--photos", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A folder of your own.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Where the outputs go.  [default: beside the data]"
)
@click.option(
    "--dir", "folder", type=click.Path(file_okay=False, path_type=Path), help="Data and logs.  [default: temporary]"
)
@click.option("--count", type=click.IntRange(1, 5000), default=320, show_default=True, help="Sample photos to make.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the server; 0: a free one.")
@click.option("--keep", is_flag=True, help="Leave the server, agents and workers running, to look around.")
def demo(photos: Path | None, out: Path | None, folder: Path | None, count: int, port: int, keep: bool) -> None:
    """Run hundreds of photos through jobs that borrow GPU memory on three simulated machines.

    Exits with 0 only if every photo came out and the event journal shows no broken law.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    folder = (folder or Path(tempfile.mkdtemp(prefix="gpubroker-demo-"))).absolute()
    out = (out or folder / "out").absolute()
    if photos is not None and out.is_relative_to(photos.absolute()):
        raise InvalidRequest("--out", str(out), f"a folder that is not inside {photos}")
    screen = screen_for(sys.stdout)
    source = photos.absolute() if photos else _sample_folder(folder / "photos", count, screen)
    try:
        found = find_photos(source)
    except ValueError as error:
        raise InvalidRequest("--photos", str(photos), str(error)) from None
    with Stack(folder, port=port, persist=False, keep=keep) as stack:
        run = Run(stack, source, out, found, Audit())
        _start(run, screen)
        with screen:
            _submit(run)
            _work(run, screen)
        ok = _summary(run)
        if keep:
            _leave_running(stack)
    if not ok:
        click.get_current_context().exit(1)


def _sample_folder(folder: Path, count: int, screen: Screen) -> Path:
    screen.say(f"making {count} photos from the sample photographs of scikit-learn and scikit-image")
    make_folder(folder, count, screen.making)
    return folder


def _start(run: Run, screen: Screen) -> None:
    """Server, agents and workers, side by side; ready when every card has been seen and every worker registered."""
    run.stack.broker.update_config(**_FAST_MOTION)
    for host in _HOSTS:
        run.stack.agent(f"agent-{host}", host=host, simulate=_HOT_SPEC if host == _HOSTS[-1] else _SPEC)
    # Jobs are submitted from here, and the workers inherit the rest.
    os.environ |= {"GPUBROKER_REDIS_URL": run.stack.url, "GPUBROKER_LEASE_TTL": str(_LEASE_TTL_SECONDS)}
    names = [(host, f"{host}-{number + 1}") for number in range(_WORKERS_A_HOST) for host in _HOSTS]
    for host, name in names:
        run.stack.worker(name, [QUEUE], host=host, options=["--require-module", "gpubroker_photos.jobs"])
    screen.say(f"server {run.stack.url}, hosts {', '.join(_HOSTS)}, data and logs in {run.stack.folder}")

    def ready(broker: Broker) -> bool:
        lending = [gpu for gpu in broker.gpus() if gpu.lends]
        return len(lending) == 2 * len(_HOSTS) and Worker.count(connection=run.queue.connection) == len(names)

    run.stack.wait_ready(ready, _READY_SECONDS, "the three hosts")
    if run.stack.keeps:
        screen.say(f"page {run.stack.serve()}")
    run.started = time.monotonic()


def _submit(run: Run) -> None:
    for photo in run.photos:
        job = enhance.delay(str(photo), str(run.source), str(run.out))
        run.job_ids.append(job.id)


def _work(run: Run, screen: Screen) -> None:
    """Follow the journal until every photo is out or failed, and the cards had time to recover."""
    looked = 0.0
    run.progressed = time.monotonic()
    for event in run.broker.follow("0", block_ms=200):
        if event is not None:
            screen.event(event)
            run.note(event)
        if time.monotonic() - looked >= _LOOK_SECONDS:
            looked = time.monotonic()
            if _look(run, screen):
                return


def _look(run: Run, screen: Screen) -> bool:
    """Show where things stand, kill a worker when its time has come; True when there is nothing left to wait for."""
    now, total = time.monotonic(), len(run.photos)
    done, failed = run.counts()
    if done + failed > run.settled:
        run.settled, run.progressed = done + failed, now
        run.seconds = now - run.started
    if screen.due():
        screen.show(done, failed, total, run.broker.gpus(), len(run.broker.waiters()))
    if not run.killed and done >= _KILL_AT * total:
        run.killed = _kill_a_busy_worker(run, screen)
    for ended in run.stack.check():
        screen.say(str(ended))
    cool = all(card.state not in ("THROTTLED", "CRITICAL") for card in run.audit.cards.values())
    if done + failed >= total and cool and not run.audit.live:
        screen.show(done, failed, total, run.broker.gpus(), 0)
        return True
    return now - run.progressed > (_RECOVERY_SECONDS if done + failed >= total else _PATIENCE_SECONDS)


def _kill_a_busy_worker(run: Run, screen: Screen) -> str:
    """SIGKILL a worker in the middle of a job; its photo must come out all the same. Returns its name."""
    # The youngest lease: its job is the least likely to end at this very moment.
    leases = sorted(run.broker.leases(), key=lambda lease: lease.created_at, reverse=True)
    busy = [lease.owner for lease in leases if lease.state == "active"]
    workers = {f"{name.rpartition('-')[0]}:{child.pid}": (name, child.pid)
               for name, child in run.stack.children.items() if child.process is not None}  # fmt: skip
    for owner in busy:
        if owner in workers:
            name, pid = workers[owner]
            os.kill(pid, signal.SIGKILL)
            screen.say(f"killed worker {name} (pid {pid}) with SIGKILL in the middle of a photo")
            return name
    return ""


def _summary(run: Run) -> bool:
    """Print what happened, by the journal; True if every photo came out and no law was broken."""
    results = run.results()
    outputs = sorted(run.out / output_name(photo, run.source) for photo in run.photos)
    there = [path for path in outputs if path.is_file()]
    lost = len(outputs) - len(there)
    if results:
        write_scores(results, run.out / "scores.csv")
        contact_sheet(there, run.out / "contact-sheet.jpg")
    problems = list(run.audit.violations)
    problems += [f"lease {lease_id} is still held" for lease_id in run.audit.live]
    problems += differences(run.broker)
    for line in account(run, len(there), run.failures() if lost else [], problems):
        click.echo(line)
    return lost == 0 and not problems


def _leave_running(stack: Stack) -> None:
    """Say how to look around, and how to end it all."""
    pids = [child.pid for child in stack.children.values() if child.process is not None]
    listed = stack.folder / "pids"
    listed.write_text("\n".join(str(pid) for pid in [*pids, stack.server.pid]) + "\n", encoding="ascii")
    click.echo(f"\nThe page: {stack.page}")
    click.echo(f"\nEverything is still running. To end it:\n  xargs kill < {listed}")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
