"""`gpubroker sizes`: what was learned of functions, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable

from click.testing import CliRunner, Result

from broker import Broker
from broker.cli import main
from broker.units import GIB

Cli = Callable[..., Result]


def test_a_line_for_each_size_of_input(cli: Cli, broker: Broker) -> None:
    broker.learn("photos.score", "a", 4 * GIB, peak_bytes=3 * GIB)
    broker.learn("photos.enhance", "b", 4 * GIB, size=24, peak_bytes=GIB)
    broker.learn("photos.enhance", "c", 2 * GIB, size=0.01, default="4GiB")
    lines = [line.split() for line in cli("sizes").stdout.splitlines()]
    assert lines[0] == ["FUNCTION", "INPUT", "SIZE", "RUNS", "ASKED", "PEAK", "WASTED", "%", "OOM", "AT", "LEAST"]
    assert sorted(lines[1:]) == [
        ["photos.enhance", "0.00929", "0", "2.0", "GiB", "-", "-", "1", "4.0", "GiB"],
        ["photos.enhance", "22.6", "1", "4.0", "GiB", "1.0", "GiB", "75", "0", "-"],
        ["photos.score", "-", "1", "4.0", "GiB", "3.0", "GiB", "25", "0", "-"],
    ]


def test_for_programs_the_same_by_name(cli: Cli, broker: Broker) -> None:
    broker.learn("photos.enhance", "b", 4 * GIB, size=16, peak_bytes=GIB)
    (one,) = json.loads(cli("sizes", "--json").stdout)
    assert (one["function"], one["size"], one["runs"], one["oom"]) == ("photos.enhance", 16.0, 1, 0)
    assert (one["asked_bytes"], one["peak_bytes"], one["wasted_percent"]) == (4 * GIB, GIB, 75.0)


def test_what_was_learned_of_a_function_is_forgotten(cli: Cli, broker: Broker) -> None:
    for name in ("photos.score", "photos.enhance"):
        broker.learn(name, "a", 4 * GIB, peak_bytes=3 * GIB)
    assert cli("sizes", "--forget", "photos.score").stdout == "forgot photos.score\n"
    assert [one.function for one in broker.sizes()] == ["photos.enhance"]
    assert json.loads(cli("sizes", "--forget", "photos.enhance", "--json").stdout) == {"forgotten": "photos.enhance"}
    again = cli("sizes", "--forget", "photos.score")
    assert (again.exit_code, again.stderr.startswith("gpubroker: nothing was learned of function photos.score")) == (
        1,
        True,
    )
    assert "learned nothing" in cli("sizes").stdout


def test_what_cannot_be_meant_or_reached_has_its_exit_code(cli: Cli) -> None:
    wrong = cli("sizes", "--forget", "a b")
    assert (wrong.exit_code, wrong.stderr.startswith("gpubroker: function=")) == (2, True)
    assert CliRunner().invoke(main, ["sizes", "--redis-url", "redis://127.0.0.1:1/0"]).exit_code == 3
