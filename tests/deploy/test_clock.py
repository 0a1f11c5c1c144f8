"""The server's wall clock makes steps: leases neither end at once nor live for ever, and tokens only grow (law 6)."""

from __future__ import annotations

import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import Broker, InsufficientMemory
from tests.deploy.scenario import Crowd, publish, repeated, wrongs
from tests.deploy.servers import Server, until

TTL = 1.0


class Clock:
    """The wall clock of one server."""

    def __init__(self, file: Path) -> None:
        """``file``: where the shim reads the milliseconds."""
        self.offset_ms = 0
        self.server: Server | None = None
        self._file = file
        self._file.write_bytes(struct.pack("=q", 0))

    def step(self, by_ms: int) -> None:
        """From now on it is off by so much more; returns when the server, which looks now and then, has seen it."""
        self.offset_ms += by_ms
        with self._file.open("r+b") as at:
            at.write(struct.pack("=q", self.offset_ms))
        until(lambda: abs(self.now_ms() - time.time() * 1000 - self.offset_ms) < 100, "a server that saw the step")

    def now_ms(self) -> int:
        """What the server tells."""
        assert self.server is not None
        seconds, micros = self.server.client.time()  # type: ignore[misc]
        return int(seconds) * 1000 + int(micros) // 1000


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that moves a process's clock."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build clock_shim.c with")
    library = tmp_path_factory.mktemp("shim") / "clock_shim.so"
    source = Path(__file__).parent / "clock_shim.c"
    subprocess.run([compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """The wall clock of the server that ``broker`` is on."""
    return Clock(tmp_path / "offset")


@pytest.fixture
def broker(shim: Path, clock: Clock, tmp_path: Path) -> Iterator[Broker]:
    """A pool on a server whose clock can be moved, with two cards, and an agent's beat."""
    environment = {"LD_PRELOAD": str(shim), "CLOCK_SHIM_FILE": str(tmp_path / "offset")}
    with Server(environment=environment) as server, Broker.from_url(server.url) as made:
        clock.server = server
        publish(made, "GPU-a", "GPU-b")
        yield made
        assert wrongs(made) == []


def _lives(broker: Broker, lease_id: str) -> bool:
    """Whether it has not ended; each look is also what ends it."""
    broker.reap()
    found = broker.get(lease_id)
    return found is not None and found.state == "active"


def test_the_clock_of_the_server_really_moves(broker: Broker, clock: Clock) -> None:
    before, ledger = clock.now_ms(), broker.reap()
    clock.step(3_600_000)
    assert clock.now_ms() - before >= 3_600_000
    assert broker.reap() - ledger >= 3_600_000
    clock.step(-3_600_250)
    assert clock.now_ms() < time.time() * 1000
    assert broker.reap() - ledger >= 3_600_000


@pytest.mark.parametrize("step", [60_000, 3_600_000, -60_000, -600_000])
def test_a_step_ends_no_lease_and_prolongs_none(broker: Broker, clock: Clock, step: int) -> None:
    broker.update_config(grace_seconds=1.5, reclaim_seconds=0)
    held = [broker.acquire("1GiB", lease_id=f"held-{n}", ttl=30) for n in range(4)]
    short = broker.acquire("1GiB", lease_id="short", ttl=TTL)
    began, token, ledger = time.monotonic(), short.token, broker.reap()
    clock.step(step)
    assert _lives(broker, "short"), "a step ends nothing"
    assert all(_lives(broker, lease.id) for lease in held)
    assert broker.reap() >= ledger, "the ledger's clock never runs backwards"
    if step > 0:
        assert [event.kind for event in broker.events()].count("clock") == 1
    for lease in held:
        assert lease.renew() > 0
    publish(broker, "GPU-a", "GPU-b")
    later = broker.acquire("1GiB", ttl=30)
    assert later.token > token
    until(lambda: not _lives(broker, "short"), "the end of a lease that nobody renews")
    lasted = time.monotonic() - began
    # A step forward pauses expiry for the grace period; a step back costs a hundredth and nothing else.
    assert (1.5 if step > 0 else TTL) - 0.05 < lasted < TTL + 1.5 + 0.5
    assert all(_lives(broker, lease.id) for lease in held)
    for lease in (*held, later):
        assert lease.release() is True


def test_back_and_then_forward_again_leaves_the_ledgers_clock_as_it_was(broker: Broker, clock: Clock) -> None:
    held = broker.acquire("1GiB", ttl=30)
    offset = broker.reap() - clock.now_ms()
    began = time.monotonic()
    tokens = [held.token]
    readings = [broker.reap()]
    for step in (-600_000, 600_000, -90_000, 30_000, 60_000):
        clock.step(step)
        readings.append(broker.reap())
        assert _lives(broker, held.id), f"after a step of {step} ms"
        held.renew()
        lease = broker.acquire("1MiB")
        tokens.append(lease.token)
        lease.release()
        readings.append(broker.reap())
    assert readings == sorted(readings)
    assert tokens == sorted(set(tokens))
    # The time that went by is what the ledger counted, to a second; and it agrees with the server again.
    assert abs(readings[-1] - readings[0] - (time.monotonic() - began) * 1000) < 1000
    assert abs(broker.reap() - clock.now_ms() - offset) < 1000


@pytest.mark.parametrize("step", [-900, -200, 300, 800])
def test_small_steps_move_a_leases_end_by_no_more_than_themselves(broker: Broker, clock: Clock, step: int) -> None:
    broker.update_config(reclaim_seconds=0)
    lease = broker.acquire("1GiB", ttl=TTL)
    began = time.monotonic()
    clock.step(step)
    until(lambda: not _lives(broker, lease.id), "the end")
    lasted = time.monotonic() - began
    assert TTL - max(step, 0) / 1000 - 0.05 < lasted < TTL + 0.5


def test_a_waiter_is_served_across_a_step_back(broker: Broker, clock: Clock) -> None:
    first = broker.acquire("5GiB", gpu="GPU-a")
    got = []
    waiter = threading.Thread(target=lambda: got.append(broker.acquire("5GiB", gpu="GPU-a", wait=20)))
    waiter.start()
    until(broker.waiters, "a waiter")
    clock.step(-600_000)
    assert first.release() is True
    waiter.join(timeout=10)
    assert [one.gpu_uuids for one in got] == [("GPU-a",)]
    assert got[0].token > first.token
    got[0].release()


def test_a_crowd_goes_on_while_the_clock_jumps(broker: Broker, clock: Clock) -> None:
    held = broker.acquire("1GiB", ttl=5)
    with Crowd(broker.url, 3) as crowd:
        for step in (-600_000, 60_000, 540_000, -1_500, 1_500, 60_000):
            clock.step(step)
            try:
                publish(broker, "GPU-a", "GPU-b")
            except InsufficientMemory:
                pytest.fail("an agent's beat is never refused")
            crowd.goes_on()
            assert held.renew() > 0
    assert crowd.wrong == crowd.lost == []
    assert crowd.away == []
    assert repeated(crowd.tokens) == set()
    assert all(own == sorted(own) for own in crowd.tokens)
    assert held.release() is True
