"""`gpubroker trend` and what stands behind it, on a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from broker import AsyncBroker, Broker, BrokerError, InvalidRequest
from broker.cli import main

Cli = Callable[..., Result]
Cards = Callable[..., None]


def warm(cards: Cards, *heats: int | None, uuid: str = "GPU-a") -> None:
    """Publish the card with these temperatures, one after the other."""
    for heat in heats:
        cards(uuid, "GPU-z", temperature_c=heat)
        time.sleep(0.02)


def test_a_card_that_warms_up_says_what_it_crosses(broker: Broker, cards: Cards) -> None:
    warm(cards, 60, 61, None, 62, 63)
    told = broker.trend("GPU-a")
    assert (told.gpu, told.temperatures, told.temperature_c) == ("GPU-a", (60, 61, 62, 63), 63)
    assert (told.direction, told.next_threshold, told.threshold_c) == ("rising", "temp_optimal", 65)
    assert told.seconds_to_threshold is not None
    assert told.seconds_to_threshold < 10
    assert broker.trend("GPU-z", 0.1).samples == 4


def test_it_goes_by_the_thresholds_of_that_card(broker: Broker, cards: Cards) -> None:
    broker.update_config(gpu="GPU-a", temp_optimal=50, temp_normal=70)
    warm(cards, 60, 61, 62)
    assert broker.trend("GPU-a").next_threshold == "temp_normal"
    assert broker.trend("GPU-z").next_threshold == "temp_optimal"


async def test_the_async_client_tells_the_same(broker: Broker, cards: Cards, redis_url: str) -> None:
    warm(cards, 70, 66, 62)
    async with AsyncBroker.from_url(redis_url) as client:
        told = await client.trend("GPU-a", minutes=2)
        with pytest.raises(InvalidRequest, match="minutes"):
            await client.trend("GPU-a", minutes=0)
    assert told.minutes == 2
    assert told.slope_c_per_minute == pytest.approx(broker.trend("GPU-a").slope_c_per_minute)
    assert told.direction == "falling"


@pytest.mark.parametrize("minutes", [0, 0.05, 1441, float("nan"), "5"])
def test_a_window_that_cannot_be_is_refused(broker: Broker, cards: Cards, minutes: float) -> None:
    cards("GPU-a")
    with pytest.raises(InvalidRequest, match="minutes"):
        broker.trend("GPU-a", minutes)


def test_a_card_that_is_not_there_is_named(broker: Broker) -> None:
    with pytest.raises(BrokerError, match="no GPU GPU-q"):
        broker.trend("GPU-q")


def test_the_verb_prints_a_sentence_a_sparkline_and_a_row(cli: Cli, cards: Cards) -> None:
    warm(cards, 60, 64, 68, 72)
    result = cli("trend", "GPU-a", "--minutes", "1")
    assert result.exit_code == 0
    sentence, spark, header, row = result.stdout.splitlines()
    assert sentence.startswith("GPU-a is at 72 °C and rises by")
    assert "temp_normal, 75 °C" in sentence
    assert spark == "60 °C ▁▃▆█ 72 °C"
    assert header.split()[:2] == ["GPU", "°C"]
    assert row.split()[:2] == ["GPU-a", "72"]
    assert "rising" in row


def test_the_verb_prints_json(cli: Cli, cards: Cards) -> None:
    warm(cards, 60, 61, 62)
    told = json.loads(cli("trend", "GPU-a", "--json").stdout)
    assert (told["gpu"], told["minutes"], told["samples"], told["temperature_c"]) == ("GPU-a", 5.0, 3, 62)
    assert (told["direction"], told["next_threshold"], told["temperatures"]) == ("rising", "temp_optimal", [60, 61, 62])
    assert told["words"].startswith("GPU-a is at 62 °C")


def test_a_card_that_tells_no_temperature_has_no_trend(cli: Cli, cards: Cards) -> None:
    warm(cards, None, None, None)
    sentence, _, row = cli("trend", "GPU-a").stdout.splitlines()
    assert "0 samples with a temperature" in sentence
    assert row.split()[:5] == ["GPU-a", "-", "-", "-", "unknown"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("GPU-q",), 1, "GPU-q"), (("GPU-a", "--minutes", "0"), 2, "minutes"),
        (("GPU-a", "--minutes", "nan"), 2, "minutes"), (("GPU-a", "--minutes", "x"), 2, "minutes"),
        (("*",), 2, "gpu"), ((), 2, "GPU"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_has_the_exit_codes_of_other_verbs(
    cli: Cli, cards: Cards, words: tuple[str, ...], code: int, said: str
) -> None:
    cards("GPU-a")
    result = cli("trend", *words)
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_without_redis_it_exits_3() -> None:
    result = CliRunner().invoke(main, ["trend", "GPU-a", "--redis-url", "redis://127.0.0.1:1/0"])
    assert result.exit_code == 3
