"""The eight examples of examples/basics, each as a process on a simulated agent: what they print means what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from broker import Broker
from broker.journal import matches
from broker.models import Event
from broker.stack import Stack
from docs.make.examples import FOLDER, page, paths

Run = Callable[[str], str]


def ran(url: str, name: str) -> str:
    """What an example prints, as a process that ends with 0 and without a word on stderr."""
    environment = {"GPUBROKER_REDIS_URL": url, "PYTHONUTF8": "1"}
    command = [sys.executable, str(FOLDER / name)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def run(stack: Stack) -> Iterator[Run]:
    """Runs an example; it leaves nothing behind in the pool."""
    stack.wait_ready(_at_rest, 60, "a pool at rest")
    before = stored(stack)
    yield lambda name: ran(stack.url, name)
    assert stack.broker.leases() == []
    assert stack.broker.waiters() == []
    assert stored(stack) == before


def _at_rest(broker: Broker) -> bool:
    """Whether the agent has seen the memory of all former leases back."""
    return all(gpu.free_bytes == gpu.capacity_bytes for gpu in broker.gpus())


def stored(stack: Stack) -> dict[str, str]:
    """The configuration as the ledger keeps it."""
    kept: dict[str, str] = stack.broker.redis.hgetall(stack.broker.keys.config)  # type: ignore[assignment]
    return {name: value for name, value in kept.items() if name != "version"}


def events(stack: Stack, after: str, kind: str) -> list[Event]:
    """The journal's events of a kind since then."""
    return [event for event in stack.broker.events(after) if matches(kind, event)]


def test_there_are_eight_of_forty_lines_at_most() -> None:
    assert [path.name[:3] for path in paths()] == [f"0{number}_" for number in range(1, 9)]
    assert [path.name for path in paths() if len(path.read_text("utf-8").splitlines()) > 40] == []


def test_the_readme_names_them_all_and_so_does_their_page() -> None:
    readme = (FOLDER / "README.md").read_text("utf-8")
    assert re.findall(r"\]\((\d\d_\w+\.py)\)", readme) == [path.name for path in paths()]
    assert all(f"python examples/basics/{path.name}" in page() for path in paths())


def test_they_use_public_faces_alone() -> None:
    for path in paths():
        imported = set(re.findall(r"^from (broker[\w.]*) import", path.read_text("utf-8"), re.MULTILINE))
        assert imported <= {"broker", "broker.models", "broker.units"}, path.name


def test_status(run: Run) -> None:
    told = run("01_status.py")
    assert len(re.findall(r"card [01]: Simulated 6\.0 GiB, \d+ °C, OPTIMAL, speed 1", told)) == 2
    assert told.count("5.5 GiB of 5.5 GiB free to borrow") == 2
    assert told.endswith("2 of 2 cards lend; 0 leases, 0 waiting\n")


def test_memory(run: Run, stack: Stack) -> None:
    after = stack.broker.last_event_id()
    told = run("02_memory.py")
    (granted,), (resized,) = events(stack, after, "granted"), events(stack, after, "resized")
    assert f"borrowed 1.0 GiB on {granted.fields['host']}, card {granted.fields['gpu_uuids']}\n" in told
    assert f"CUDA_VISIBLE_DEVICES={granted.fields['gpu_uuids']}\n" in told
    assert "4.5 GiB are left there for others" in told
    assert resized.fields["memory_bytes"] == str(512 << 20)
    given_back = re.search(r"^given back: (\d\.\d) GiB are free$", told, re.MULTILINE)
    # What its process still has at the next look counts as a stranger's until the look after.
    assert given_back is not None
    assert 4.5 < float(given_back[1]) <= 5.5
    assert "refused at once:" in told
    assert "1000" in told.splitlines()[-1]


def test_temperature(run: Run) -> None:
    told = run("03_temperature.py")
    assert told.count("OPTIMAL below 65 °C, THROTTLED from 75, CRITICAL above 85") == 2
    assert len(re.findall(r"GPU-\S+ is at \d+ °C and (?:steady|rises|falls)", told)) == 2


def test_throttling(run: Run) -> None:
    told = run("04_throttling.py")
    sizes = [int(size) for size in re.findall(r"(\d+) photos at once", told)]
    assert sum(sizes) == 24
    assert sizes[0] == 8
    assert told.endswith("0 left\nall done\n")


def test_throttling_makes_smaller_batches_on_a_hot_card(run: Run, stack: Stack) -> None:
    broker = stack.broker
    changed = {"temp_optimal": 5, "temp_normal": 10, "temp_throttle": 80}
    after = broker.last_event_id()
    broker.update_config(**changed)  # what was cool is hot from now on
    until_both(stack, after, "throttle")
    told = run("04_throttling.py")
    after = broker.last_event_id()
    broker.update_config(**dict.fromkeys(changed))
    until_both(stack, after, "optimal")
    assert "THROTTLED, speed 0.5: 4 photos at once, 20 left" in told


def until_both(stack: Stack, after: str, kind: str) -> None:
    """Until both cards told so."""
    heard: set[str] = set()
    for event in stack.broker.follow(after):
        if event is not None and matches(kind, event):
            heard.add(event.fields["gpu"])
        if len(heard) == 2:
            return


def test_callbacks(run: Run) -> None:
    told = run("05_callbacks.py")
    assert re.search(r"^borrowed: 1\.0 GiB on \S+$", told, re.MULTILINE)
    assert re.search(r"^given back after \d+ ms: \S+$", told, re.MULTILINE)
    assert told.endswith("heard all of it\n")


def test_several_gpus(run: Run, stack: Stack) -> None:
    told = run("06_several_gpus.py")
    uuids = [gpu.uuid for gpu in stack.broker.gpus()]
    assert re.search(r"^got choice 1, 2x1GiB, on \S+:$", told, re.MULTILINE)
    assert [uuid for uuid in uuids if f"  1.0 GiB of 6.0 GiB on {uuid}\n" not in told] == []


def test_history(run: Run) -> None:
    told = run("07_history.py")
    assert len(re.findall(r"card [01]: \d+ samples since \d\d:\d\d:\d\d, \d+ to \d+ °C", told)) == 2
    assert len(re.findall(r"^  \d\d:\d\d:\d\d  \d+ °C  [A-Z]+$", told, re.MULTILINE)) == 6
    _, _, journal = told.partition("the journal's last entries:\n")
    assert 1 <= len(journal.splitlines()) <= 5


def test_configuration(run: Run, stack: Stack) -> None:
    after = stack.broker.last_event_id()
    told = run("08_configuration.py")
    assert "a sample every 0.5 s\nOPTIMAL below 65 °C and 70 % of memory\n" in told
    assert re.search(r"told 120 s ahead\n  now 90 s ahead\n  and 120 s again\n", told)
    assert len(events(stack, after, "config")) == 2
    assert "refused, nothing changed:" in told


def test_a_pool_without_cards_is_no_reason_to_fail(redis_url: str) -> None:
    for name in ("01_status.py", "03_temperature.py", "07_history.py", "08_configuration.py"):
        assert "card 0" not in ran(redis_url, name)
