"""`gpubroker top` on a real ledger: by Textual's pilot, and once on a real terminal."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import queue
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner
from textual.pilot import Pilot
from textual.widgets import Input

from broker import Broker, InsufficientMemory, acl
from broker.cli import main
from broker.cli.top.app import Top, Words
from broker.cli.top.feed import Feed, Picture
from broker.embedded import EmbeddedServer
from broker.publish import Publisher
from broker.units import GIB
from broker.values import State
from tests.conftest import report

Cards = Callable[..., None]
SMALL, WIDE = (80, 24), (160, 50)
PATIENCE = 20.0


async def until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    """Return once a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, screen(pilot)
        await asyncio.sleep(0.02)
        await pilot.pause()


def screen(pilot: Pilot[None]) -> str:
    """What stands on the screen, line by line."""
    app = pilot.app
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


async def shows(pilot: Pilot[None], *words: str) -> str:
    """The screen, once all of these words stand on it."""
    await until(pilot, lambda: all(word in screen(pilot) for word in words))
    return screen(pilot)


@pytest.fixture
def app(broker: Broker) -> Top:
    return Top(broker)


async def test_a_small_screen_shows_hosts_cards_and_leases(app: Top, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", host="studio-a", name="RTX 3060", temperature_c=61, memory_used_bytes=3 * GIB, unmanaged_bytes=GIB)
    Publisher(broker, "bare").publish([], 600_000, host_state="UNAVAILABLE", host_reason="no NVML library")
    broker.acquire("3GiB", lease_id="job-7")
    async with app.run_test(size=SMALL, notifications=True) as pilot:
        text = await shows(pilot, "studio-a", "[0] RTX 3060", "61", "OPTIMAL", "3.0 / 6.0G", "no NVML library")
        assert "1 of 1 cards lend, 3.0 GiB of 4.5 GiB lent, 1 lease, 0 waiting" in text
        (row,) = [line for line in text.splitlines() if "RTX 3060" in line]
        bar = "".join(sign for sign in row if sign in "█▒▚·")
        assert re.fullmatch("█+▒+▚+·+", bar)  # 2 GiB used of 3 lent, 1 unmanaged, 2 free
        assert len(text.splitlines()) <= 24
        assert max(map(len, text.splitlines())) <= 80


async def test_it_follows_the_journal_and_the_samples(app: Top, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", temperature_c=40)
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await shows(pilot, "0 leases")
        broker.acquire("2GiB", lease_id="job-8")
        await shows(pilot, "1 lease, ", "job-8", "granted")
        cards("GPU-a", temperature_c=83, state=State.THROTTLED, job_state=State.THROTTLED, reason="83 °C")
        await shows(pilot, "THROTTLED", "83")


async def test_a_wide_screen_shows_all_at_once(app: Top, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("5GiB", lease_id="holds-it")
    broker.call("acquire", "waits-for-it", 2 * GIB, 30_000, "", "", 0, "studio", "me", "", "", "", 1)
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await shows(pilot, "cards 1", "leases 1", "waiters 1", "events", "holds-it", "waits-for-it", "queued")
        await pilot.press("3")
        await shows(pilot, "waits-for-it: 1 card with too little free", "512 MiB free of 5.5 GiB")


async def test_panes_are_a_key_away_on_a_small_screen(app: Top, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("5GiB", lease_id="holds-it")
    async with app.run_test(size=SMALL, notifications=True) as pilot:
        await shows(pilot, "cards 1")
        await pilot.press("2")
        assert "granted" not in await shows(pilot, "leases 1", "holds-it", "ENDS IN")
        await pilot.press("tab", "tab")
        await shows(pilot, "events", "granted", "joined")
        await pilot.press("tab")
        await shows(pilot, "cards 1")


async def test_cards_are_sorted_on_demand(app: Top, cards: Cards) -> None:
    cards("GPU-a", host="h1", temperature_c=50)
    cards("GPU-b", host="h2", temperature_c=70)
    async with app.run_test(size=SMALL, notifications=True) as pilot:
        await shows(pilot, "h1", "h2", "by host")
        await pilot.press("s")
        text = await shows(pilot, "by heat")
        assert text.index("h2 [0]") < text.index("h1 [0]")


async def test_the_chosen_row_stays_chosen_wherever_it_moves(app: Top, cards: Cards) -> None:
    cards("GPU-a", "GPU-b", host="h2", temperature_c=50)
    async with app.run_test(size=SMALL, notifications=True) as pilot:
        await shows(pilot, "[1]")
        await pilot.press("end", "s")
        await shows(pilot, "by heat")
        assert app.pane.chosen is not None
        assert app.pane.chosen.name == "GPU-b"
        cards("GPU-c", host="h1", temperature_c=70)
        await shows(pilot, "h1 [0]")
        assert app.pane.chosen.name == "GPU-b"
        assert "> h2 [1]" in screen(pilot)


async def test_rows_are_sought_by_a_word_and_all_come_back(app: Top, cards: Cards) -> None:
    cards("GPU-a", host="studio-a")
    cards("GPU-b", host="other")
    async with app.run_test(size=SMALL, notifications=True) as pilot:
        await shows(pilot, "studio-a", "other")
        await pilot.press("slash", *"studio")
        await until(pilot, lambda: "other" not in screen(pilot))
        await pilot.press("enter", "down")
        assert app.pane.chosen is not None
        await pilot.press("escape")
        await shows(pilot, "studio-a", "other")
        assert app.query_one("#filter", Input).value == ""


async def test_a_card_is_drained_after_a_yes_and_undrained(app: Top, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    async with app.run_test(size=SMALL, notifications=True) as pilot:
        await shows(pilot, "[1]")
        await pilot.press("down", "d")
        await shows(pilot, "drain card GPU-a?")
        await pilot.press("n", "d", "y")
        await until(pilot, lambda: [gpu.drained for gpu in broker.gpus()] == [True, False])
        await shows(pilot, "done: drain card GPU-a", "drained")
        await pilot.press("u", "y")
        await until(pilot, lambda: not broker.gpus()[0].drained)


async def test_a_host_is_drained_by_its_row(app: Top, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    async with app.run_test(size=SMALL, notifications=True) as pilot:
        await shows(pilot, "[1]")
        await pilot.press("home", "d", "y")
        await until(pilot, lambda: all(gpu.drained for gpu in broker.gpus()))


async def test_a_lease_is_revoked_after_a_yes_and_not_without(app: Top, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB", lease_id="job-7")
    async with app.run_test(size=SMALL, notifications=True) as pilot:
        await pilot.press("2")
        await shows(pilot, "job-7")
        for key in ("enter", "escape", "n"):
            await pilot.press("r")
            await shows(pilot, "revoke lease job-7?")
            await pilot.press(key)
            await until(pilot, lambda: not isinstance(app.screen, Words))
        assert broker.leases()[0].revoke_at is None
        await pilot.press("r", "y")
        await until(pilot, lambda: broker.leases()[0].revoke_at is not None)
        await shows(pilot, "revoked")


async def test_what_cannot_be_done_is_said(app: Top, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", lease_id="job-7")
    async with app.run_test(size=SMALL, notifications=True) as pilot:
        await shows(pilot, "[0]")
        await pilot.press("r")
        await shows(pilot, "choose a lease")
        await pilot.press("2")
        await shows(pilot, "job-7")
        await pilot.press("r")
        lease.release()
        await pilot.press("y")
        await until(
            pilot, lambda: any("job-7" in one.message and one.severity == "error" for one in app._notifications)
        )


async def test_help_tells_the_keys(app: Top, cards: Cards) -> None:
    cards("GPU-a")
    async with app.run_test(size=SMALL, notifications=True) as pilot:
        await shows(pilot, "[0]")
        await pilot.press("question_mark")
        await shows(pilot, "undrain the chosen card", "used without a lease")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, Words))


async def test_names_from_the_ledger_cannot_steer_the_terminal(app: Top, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", name="\x1b[2Jevil\x9b", reason="[red]plain[/red]\x07", state=State.CRITICAL)
    broker.redis.xadd(broker.keys.events, {"seq": "9", "kind": "odd\x1b]0;x\x07", "at": "1", "why": "[bold]b[/bold]"})
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        text = await shows(pilot, "evil", "[red]plain[/red]", "[bold]b[/bold]")
        assert not {"\x1b", "\x9b", "\x07"} & set(text)
    broker.redis.delete(broker.keys.events)  # the journal of this test is no pool's


async def test_a_thousand_cards_are_drawn_in_no_time(app: Top, broker: Broker) -> None:
    for number in range(125):
        host = f"h{number:03}"
        Publisher(broker, host).publish([report(f"GPU-{host}-{index}", index) for index in range(8)], 600_000)
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await shows(pilot, "1000 of 1000 cards lend")
        pane, picture = app.pane, app.picture
        assert picture is not None
        began = time.thread_time()
        for _ in range(5):
            pane.show(picture)
            await pilot.pause()
        assert (time.thread_time() - began) / 5 < 0.25  # of the second until the next one
        await pilot.press("end")
        await shows(pilot, "h124")
        drawn = pane.size.height
        assert drawn < 60


async def test_a_ledger_that_is_away_is_told_and_what_was_seen_stays() -> None:
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker:
        Publisher(broker, "h1").publish([report("GPU-a", name="seen it")], 600_000)
        async with Top(broker).run_test(size=SMALL) as pilot:
            await shows(pilot, "seen it")
            server.stop()
            await shows(pilot, "no news: Redis cannot be reached", "seen it")


# -- a real terminal ---------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal(redis_url: str, cards: Cards) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`gpubroker top` on a terminal of 80 columns, and the terminal's other end."""
    cards("GPU-a", name="RTX 3060")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "GPUBROKER_REDIS_URL": redis_url, "NO_COLOR": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "broker.cli", "top"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    yield process, ours
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.wait()
    os.close(ours)


def read_until(end: int, word: bytes) -> bytes:
    """What came from the terminal, up to that word."""
    got, deadline = b"", time.monotonic() + PATIENCE
    while word not in got:
        assert time.monotonic() < deadline, got[-2000:]
        if select.select([end], [], [], 0.2)[0]:
            got += os.read(end, 65536)
    return got


def test_it_runs_on_a_terminal_and_leaves_it_as_it_was(terminal: tuple[subprocess.Popen[bytes], int]) -> None:
    process, end = terminal
    drawn = read_until(end, b"RTX 3060") + read_until(end, b"quit")
    assert b"\x1b[?1049h" in drawn
    assert not re.search(rb"\x1b\[[0-9;]*[34]8;", drawn)  # NO_COLOR was meant
    os.write(end, b"q")
    assert b"\x1b[?1049l" in read_until(end, b"\x1b[?1049l")
    assert process.wait(timeout=PATIENCE) == 0


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["top"])
    assert result.exit_code == 1
    assert result.stderr == "gpubroker: `gpubroker top` needs Textual: pip install 'gpubroker[top]'\n"


def test_without_a_terminal_it_is_refused(redis_url: str) -> None:
    command = [sys.executable, "-m", "broker.cli", "top", "--redis-url", redis_url]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert "wants a terminal" in run.stderr


def test_who_may_only_read_the_ledger_sees_all_but_the_reasons(broker: Broker, cards: Cards, redis_url: str) -> None:
    """Why one waits is told by a script, which the role viewer may not run; the rest of the screen is his to see."""
    cards("GPU-a")
    broker.drain("GPU-a")
    for line in acl.commands({"viewer": acl.hash_of("viewer-password-0")}, "default"):
        broker.redis.execute_command(*line.split())  # type: ignore[no-untyped-call]
    user = acl.user_name("default", "viewer")
    pictures, away = queue.Queue[Picture](), list[str]()

    def wait() -> None:
        with pytest.raises(InsufficientMemory):
            broker.acquire("1GiB", wait=60)

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        with Broker.from_url(redis_url.replace("://", f"://{user}:viewer-password-0@")) as viewer:
            feed = Feed(viewer, pictures.put, away.append)
            feed.start()
            while not (picture := pictures.get(timeout=PATIENCE)).waiters:
                pass
            feed.stop()
        assert (len(picture.gpus), picture.whys, away) == (1, {}, [])
    finally:
        for waiter in broker.waiters():
            broker.cancel(waiter.id)
        waiting.join(PATIENCE)
        broker.redis.execute_command("ACL", "DELUSER", user)  # type: ignore[no-untyped-call]
