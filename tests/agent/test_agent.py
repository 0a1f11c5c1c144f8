"""The agent as a process, on a real ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from broker import Broker, InsufficientMemory, State
from broker.embedded import EmbeddedServer
from tests.agent.conftest import GIB, Cards, state, wait_for, wait_for_samples

Agent = Callable[..., "subprocess.Popen[str]"]


def test_cards_are_published_heat_is_noticed_and_cooling_waits(quick: Broker, agent: Agent, mock_cards: Cards) -> None:
    agent(mock=mock_cards)
    wait_for(quick, state("GPU-mock-0", "OPTIMAL"))
    first, second = quick.gpus()
    assert (first.name, first.temperature_c, first.unmanaged_bytes) == ("Mock RTX 8GB", 41, GIB // 4)
    assert first.budget_bytes == 8 * GIB - GIB // 2 - GIB // 4  # the reserve, and what no lease holds
    assert (second.index, second.lends) == (1, True)
    mock_cards.set({"0.temp": 86})
    hot = wait_for(quick, state("GPU-mock-0", "CRITICAL"))
    assert "86 °C is CRITICAL" in hot.fields["reason"]
    assert quick.throttle("GPU-mock-0").speed == 0.0
    with pytest.raises(InsufficientMemory):
        quick.acquire("1GiB", gpu="GPU-mock-0")
    mock_cards.set({"0.temp": 50})
    cool = wait_for(quick, state("GPU-mock-0", "OPTIMAL"), after=hot.stream_id)
    assert cool.at - hot.at >= 300


def test_a_lost_card_lends_nothing_until_it_is_back(quick: Broker, agent: Agent, mock_cards: Cards) -> None:
    agent(mock=mock_cards)
    wait_for(quick, state("GPU-mock-1", "OPTIMAL"))
    mock_cards.set({"0.lost": 15})
    lost = wait_for(quick, state("GPU-mock-0", "UNAVAILABLE"))
    assert "GPU is lost" in lost.fields["reason"]
    with pytest.raises(InsufficientMemory):
        quick.acquire("1GiB", gpu="GPU-mock-0")
    assert quick.acquire("1GiB").gpu_uuids == ("GPU-mock-1",)
    mock_cards.set({"0.lost": None})
    wait_for(quick, state("GPU-mock-0", "OPTIMAL"), after=lost.stream_id)
    assert quick.acquire("1GiB", gpu="GPU-mock-0").host == "h1"


def test_a_card_whose_memory_cannot_be_lends_nothing(quick: Broker, agent: Agent, mock_cards: Cards) -> None:
    agent(mock=mock_cards)
    wait_for(quick, state("GPU-mock-0", "OPTIMAL"))
    mock_cards.set({"0.used": 9 * GIB})  # of 8
    closed = wait_for(quick, state("GPU-mock-0", "UNAVAILABLE"))
    assert closed.fields["reason"] == "its memory cannot be read"
    with pytest.raises(InsufficientMemory):
        quick.acquire("1GiB", gpu="GPU-mock-0")


def test_nothing_a_card_can_say_keeps_the_others_from_being_published(
    quick: Broker, agent: Agent, mock_cards: Cards
) -> None:
    agent(mock=mock_cards)
    wait_for(quick, state("GPU-mock-0", "OPTIMAL"))
    most = 2**64 - 2
    signs: tuple[dict[str, object], ...] = (
        {"0.temp": -5}, {"0.power": 2**32 - 1}, {"0.load": 4_000_000}, {"0.procs": f"1:{most}"},
        {"0.total": most, "0.used": most}, {"0.name": "\xff"},
    )  # fmt: skip
    for sign in signs:
        mock_cards.set(sign)
        wait_for_samples(quick)
        assert quick.gpus()[1].state is State.OPTIMAL, sign
    assert quick.gpus()[0].state is State.UNAVAILABLE


def test_a_strangers_memory_shrinks_the_budget_and_a_holders_does_not(
    quick: Broker, agent: Agent, mock_cards: Cards
) -> None:
    agent(mock=mock_cards)
    wait_for(quick, state("GPU-mock-0", "OPTIMAL"))
    quick.acquire("5GiB", gpu="GPU-mock-0", pid=os.getpid())
    stranger = 1  # init is no descendant of ours
    mock_cards.set({"0.used": 6 * GIB, "0.procs": f"{os.getpid()}:{2 * GIB},{stranger}:{4 * GIB}"})
    short = wait_for(quick, lambda event: event.kind == "short")
    assert short.fields["unmanaged_bytes"] == str(4 * GIB)
    with pytest.raises(InsufficientMemory):
        quick.acquire("1MiB", gpu="GPU-mock-0")
    assert next(gpu for gpu in quick.gpus() if gpu.uuid == "GPU-mock-0").unmanaged_bytes == 4 * GIB


def test_without_a_gpu_the_host_is_unavailable_and_says_why_until_there_is_one(
    quick: Broker, agent: Agent, mock_cards: Cards, tmp_path: Path
) -> None:
    mock_cards.set({"driver": 9})
    agent(mock=mock_cards)
    wait_for(quick, lambda event: event.kind == "joined")
    (host,) = quick.hosts()
    assert host["state"] == "UNAVAILABLE"
    assert "Driver Not Loaded" in host["reason"]
    assert "--simulate 2x6GiB" in host["reason"]
    assert quick.gpus() == []
    mock_cards.set({"driver": 0})
    wait_for(quick, state("GPU-mock-0", "OPTIMAL"))
    assert quick.hosts()[0]["state"] == "OK"
    assert (tmp_path / "h1.log").read_text().count("event=no_gpu") <= 2  # once a reason, not once a sample


def test_a_library_that_is_not_there_is_said_once_and_looked_for_until_it_is(
    quick: Broker, agent: Agent, mock_cards: Cards, nvml_library: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "driver"
    folder.mkdir()
    agent(mock=mock_cards, library=folder)
    wait_for(quick, lambda event: event.kind == "joined")
    host = quick.hosts()[0]
    assert host["state"] == "UNAVAILABLE"
    assert "no NVIDIA driver can be opened" in host["reason"]
    wait_for_samples(quick)
    (folder / "libnvidia-ml.so.1").symlink_to(nvml_library / "libnvidia-ml.so.1")
    wait_for(quick, state("GPU-mock-0", "OPTIMAL"))
    assert quick.hosts()[0]["state"] == "OK"
    assert (tmp_path / "h1.log").read_text().count("event=no_gpu") == 1


def test_a_card_that_fell_off_the_bus_keeps_its_name_and_lends_nothing(
    quick: Broker, agent: Agent, mock_cards: Cards
) -> None:
    agent(mock=mock_cards)
    wait_for(quick, state("GPU-mock-1", "OPTIMAL"))
    mock_cards.set({"count": 1, **{f"0.{name}": mock_cards.values[f"1.{name}"] for name in ("uuid", "temp")}})
    gone = wait_for(quick, state("GPU-mock-0", "UNAVAILABLE"))
    assert "does not find it any more" in gone.fields["reason"]
    assert quick.acquire("1GiB").gpu_uuids == ("GPU-mock-1",)


def test_one_sample_that_the_ledger_refuses_is_an_error(quick: Broker, redis_url: str) -> None:
    quick.redis.delete(quick.keys.ledger)
    quick.redis.set(quick.keys.ledger, "no hash")
    run = subprocess.run(
        [sys.executable, "-m", "broker.cli", "agent", "--simulate", "1x6GiB", "--once"],
        capture_output=True, text=True, env={**os.environ, "GPUBROKER_REDIS_URL": redis_url},
    )  # fmt: skip
    quick.redis.delete(quick.keys.ledger)
    assert run.returncode == 3
    assert redis_url in run.stderr


def test_sigterm_leaves_cleanly(quick: Broker, agent: Agent) -> None:
    process = agent("--simulate", "2x6GiB")
    wait_for(quick, lambda event: event.kind == "joined")
    process.send_signal(signal.SIGTERM)
    wait_for(quick, lambda event: event.kind == "left")
    assert process.wait(timeout=10) == 0
    assert quick.gpus() == []


def test_a_killed_agents_cards_lend_nothing_once_their_sample_is_old(quick: Broker, agent: Agent) -> None:
    process = agent("--simulate", "1x6GiB")
    wait_for(quick, lambda event: event.kind == "joined")
    process.kill()
    process.wait()
    process.returncode = 0
    while quick.gpus()[0].state is not State.UNAVAILABLE:
        quick.reap()
    with pytest.raises(InsufficientMemory):
        quick.acquire("1GiB")


def test_leases_heat_a_badly_cooled_card_which_throttles_and_recovers(quick: Broker, agent: Agent) -> None:
    agent("--simulate", "1x6GiB,tau=0.5,hot=0")
    uuid = wait_for(quick, lambda event: event.kind == "state").fields["gpu"]
    lease = quick.acquire("4GiB", ttl=60)
    slow = wait_for(quick, state(uuid, "THROTTLED"))
    assert quick.speed(uuid) == 0.5
    assert wait_for(quick, state(uuid, "NORMAL"), after=slow.stream_id)  # jobs that work slower let it cool
    lease.release()
    wait_for(quick, state(uuid, "OPTIMAL"), after=slow.stream_id)
    assert [sample.temperature_c for sample in quick.history(uuid)]


def test_a_change_of_the_configuration_is_picked_up_while_it_runs(
    quick: Broker, agent: Agent, mock_cards: Cards
) -> None:
    agent(mock=mock_cards)
    wait_for(quick, state("GPU-mock-0", "OPTIMAL"))
    quick.update_config(gpu="GPU-mock-0", temp_optimal=30)
    wait_for(quick, state("GPU-mock-0", "NORMAL"))
    quick.redis.hset(quick.keys.config, "temp_normal", "nonsense")  # by hand, past every check
    mock_cards.set({"0.temp": 80})
    wait_for(quick, state("GPU-mock-0", "THROTTLED"))


def test_a_server_that_was_away_finds_the_agent_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with EmbeddedServer(folder) as first, Broker.from_url(first.url) as broker:
        broker.update_config(monitor_interval=0.1)
        port, url = first.port, first.url
        process = subprocess.Popen(
            [sys.executable, "-m", "broker.cli", "agent", "--simulate", "1x6GiB", "--host", "h1", "--redis-url", url],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(broker, lambda event: event.kind == "joined")
    assert process.stderr is not None
    for line in process.stderr:
        if "event=publish_failed" in line:
            break
    with EmbeddedServer(folder, port) as second, Broker.from_url(second.url) as broker:
        sampled = broker.gpus()[0].sampled_at
        # The samples that waited come first, and open nothing: they are as old as they are.
        while not ((seen := broker.gpus()[0]).sampled_at > sampled and seen.lends):
            broker.reap()
        process.terminate()
        assert process.wait(timeout=20) == 0


def test_an_agent_without_its_server_still_ends_when_told_to() -> None:
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker:
        broker.update_config(monitor_interval=0.1)
        process = subprocess.Popen(
            [sys.executable, "-m", "broker.cli", "agent", "--simulate", "1x6GiB", "--redis-url", server.url],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(broker, lambda event: event.kind == "joined")
    assert process.stderr is not None
    for line in process.stderr:
        if "event=publish_failed" in line:
            process.terminate()
            break
    assert "event=leave_failed" in process.stderr.read()
    assert process.wait(timeout=20) == 0


def test_no_redis_at_the_start_is_one_line_and_exit_3() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "broker.cli", "agent", "--simulate", "1x6GiB", "--redis-url", "redis://127.0.0.1:1/0"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 3
    assert "127.0.0.1:1" in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_card_that_falls_off_the_bus_is_drained_and_opens_after_clean_readings(
    quick: Broker, agent: Agent, mock_cards: Cards
) -> None:
    quick.update_config(health_clean_seconds=1.5)
    agent(mock=mock_cards)
    wait_for(quick, state("GPU-mock-0", "OPTIMAL"))
    mock_cards.set({"0.lost": 15, "xids": "0:79"})
    drained = wait_for(quick, lambda event: event.kind == "drained")
    assert (drained.fields["gpu"], drained.fields["by"]) == ("GPU-mock-0", "health")
    assert "XID 79: the card fell off the bus" in drained.fields["reason"]
    (xid,) = [event for event in quick.events() if event.kind == "xid"]
    assert xid.fields["xid"] == "79"
    mock_cards.set({"0.lost": None})
    back = wait_for(quick, state("GPU-mock-0", "OPTIMAL"), after=drained.stream_id)
    with pytest.raises(InsufficientMemory):
        quick.acquire("1GiB", gpu="GPU-mock-0")
    opened = wait_for(quick, lambda event: event.kind == "undrained", after=back.stream_id)
    assert opened.fields["by"] == "health"
    assert quick.acquire("1GiB", gpu="GPU-mock-0").host == "h1"


def test_a_program_that_people_want_has_the_cards_for_itself(
    quick: Broker, agent: Agent, mock_cards: Cards, tmp_path: Path
) -> None:
    game = tmp_path / "mygame"
    game.symlink_to(sys.executable)
    agent("--yield-to", "mygame", mock=mock_cards)
    wait_for(quick, state("GPU-mock-1", "OPTIMAL"))
    played = subprocess.Popen([str(game), "-c", "input()"], stdin=subprocess.PIPE)
    drained = wait_for(quick, lambda event: event.kind == "drained")
    assert (drained.fields["by"], drained.fields["reason"]) == ("people", "kept for mygame")
    assert quick.available() == {}
    played.communicate(b"\n")
    wait_for(quick, lambda event: event.kind == "undrained", after=drained.stream_id)
    wait_for_samples(quick)
    assert set(quick.available()) == {"GPU-mock-0", "GPU-mock-1"}
