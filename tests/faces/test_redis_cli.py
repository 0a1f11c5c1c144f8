"""`--redis-cli`: what a verb would send, as commands that run and do the same."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import hiredis
import pytest
from click.testing import Result

from broker import Broker
from broker.cli.recipe import quoted, way_to
from broker.units import GIB
from tests.faces.test_json import NO_DATA, TOLD, verbs

Cli = Callable[..., Result]
Cards = Callable[..., None]

REDIS_CLI = shutil.which("redis-cli") or shutil.which("valkey-cli")
#: It asks for more than what goes over one wire.
_OTHERWISE = {"doctor"}


class Run:
    """Runs lines of a recipe: as ``redis-cli`` would, over a connection of its own, or by the real one."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self._redis, self._folder = broker.redis, folder

    def __call__(self, text: str) -> list[object]:
        """The replies."""
        return [self._line(line) for line in text.splitlines() if not line.startswith("#")]

    def _line(self, line: str) -> object:
        if " > " in line:
            return subprocess.run(line, shell=True, cwd=self._folder, check=True).returncode
        words = shlex.split(line)
        assert words[0] == "redis-cli"
        del words[:5]  # redis-cli -h HOST -p PORT
        if words[0] == "--eval":
            comma = words.index(",")
            keys, argv = words[2:comma], words[comma + 1 :]
            words = ["EVAL", (self._folder / words[1]).read_text(), str(len(keys)), *keys, *argv]
        with self._redis.client() as connection:
            wire = connection.connection
            assert wire is not None
            wire._sock.sendall(hiredis.pack_command(tuple(words)))
            return wire.read_response()


@pytest.fixture
def run(broker: Broker, tmp_path: Path) -> Run:
    return Run(broker, tmp_path)


def test_every_verb_that_asks_or_acts_can_write_it_down() -> None:
    for words, command in verbs():
        if words[0] not in NO_DATA | _OTHERWISE:
            assert any("--redis-cli" in one.opts for one in command.params), words


def test_what_would_change_something_is_written_and_not_done(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    result = cli("drain", "GPU-a", "--redis-cli")
    assert result.exit_code == 0
    make, call = result.stdout.splitlines()
    assert make.endswith("-m broker.ledger.scripts drain > drain.lua")
    assert "--eval drain.lua 'gpubroker:{default}:' 'gpubroker:{default}:ledger' , gpu" in call
    assert call.endswith(", gpu GPU-a")
    assert not broker.gpus()[0].drained


def test_run_it_does_what_the_verb_does(cli: Cli, broker: Broker, cards: Cards, run: Run) -> None:
    cards("GPU-a")
    run(cli("drain", "GPU-a", "--redis-cli").stdout)
    assert broker.gpus()[0].drained
    run(cli("undrain", "GPU-a", "--redis-cli").stdout)
    run(cli("acquire", "2GiB", "--lease-id", "job-7", "--redis-cli").stdout)
    (lease,) = broker.leases()
    assert (lease.id, lease.memory_bytes) == ("job-7", 2 * GIB)
    run(cli("release", "job-7", str(lease.token), "--redis-cli").stdout)
    assert broker.leases() == []
    run(cli("config", "set", "temp_optimal=60", "--redis-cli").stdout)
    assert broker.config().temp_optimal == 60


@pytest.mark.skipif(REDIS_CLI is None, reason="no redis-cli here: Debian's redis-tools has it")
def test_the_real_redis_cli_takes_it(cli: Cli, broker: Broker, cards: Cards, tmp_path: Path) -> None:
    cards("GPU-a")
    lines = cli("acquire", "2GiB", "--lease-id", "job-7", "--host", "h1", "--redis-cli").stdout
    script = lines.replace("redis-cli", str(REDIS_CLI))
    told = subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    (lease,) = broker.leases()
    assert lease.id == "job-7"
    assert str(lease.token) in told.stdout


def test_what_only_asks_is_written_with_all_that_follows_from_its_answers(
    cli: Cli, broker: Broker, cards: Cards, run: Run
) -> None:
    cards("GPU-a")
    broker.acquire("2GiB", lease_id="job-7")
    lines = cli("leases", "--redis-cli").stdout
    assert [shlex.split(line)[5] for line in lines.splitlines()] == ["ZRANGE", "HGETALL", "TIME", "HGET"]
    assert "job-7" in str(run(lines))
    assert "HELD" not in lines
    assert "XREVRANGE" in cli("events", "--redis-cli").stdout
    assert "XREAD COUNT 500 BLOCK 3000 STREAMS" in cli("events", "--follow", "--redis-cli").stdout.splitlines()[-1]
    assert "--eval explain.lua" in cli("explain", "1GiB", "--redis-cli").stdout


@pytest.mark.parametrize("words", [words for words in TOLD if words[0] not in _OTHERWISE], ids=" ".join)
def test_no_verb_changes_anything_while_it_writes(
    cli: Cli, broker: Broker, cards: Cards, words: tuple[str, ...]
) -> None:
    cards("GPU-a", "GPU-b")
    token = broker.acquire("1GiB", lease_id="held", gpu="GPU-b").token
    before = broker.redis.xlen(broker.keys.events), broker.config(), broker.leases()
    cli(*(str(token) if word == "TOKEN" else word for word in words), "--redis-cli")
    assert (broker.redis.xlen(broker.keys.events), broker.config(), broker.leases()) == before


@pytest.mark.parametrize(
    "words", [words for words in TOLD if words[0] not in {*_OTHERWISE, "retire", "adopt"}], ids=" ".join
)
def test_every_line_of_every_verb_runs(
    cli: Cli, broker: Broker, cards: Cards, run: Run, words: tuple[str, ...]
) -> None:
    cards("GPU-a", "GPU-b")
    token = broker.acquire("1GiB", lease_id="held", gpu="GPU-b").token
    written = cli(*(str(token) if word == "TOKEN" else word for word in words), "--redis-cli")
    assert written.exit_code == 0, written.output
    assert run(written.stdout)  # an error of the server's is raised


def test_a_bad_value_is_refused_as_ever(cli: Cli) -> None:
    result = cli("acquire", "nan", "--redis-cli")
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_password_is_not_written(cli: Cli, broker: Broker) -> None:
    broker.redis.config_set("requirepass", "s3cret")
    try:
        url = broker.url.replace("redis://", "redis://:s3cret@")
        text = cli("leases", "--redis-cli", "--redis-url", url).stdout
    finally:
        broker.redis.config_set("requirepass", "")
    assert "s3cret" not in text
    assert text.startswith("# redis-cli reads the password from REDISCLI_AUTH\nredis-cli -h ")


@pytest.mark.parametrize(
    ("url", "place", "way"),
    [
        ("redis://h:6390/0", None, "redis-cli -h h -p 6390"),
        ("redis://me:pw@h/3", None, "redis-cli -h h -p 6379 -n 3 --user me"),
        ("rediss://h:1/0", None, "redis-cli -h h -p 1 --tls"),
        ("unix:///run/redis.sock", None, "redis-cli -s /run/redis.sock"),
        ("redis+sentinel://me:pw@a:1,b:2/main/2", ("p", 7), "redis-cli -h p -p 7 -n 2 --user me"),
        ("redis+cluster://a:1,b:2", ("p", 7), "redis-cli -h p -p 7"),
    ],
)
def test_redis_cli_is_told_the_way(url: str, place: tuple[str, int] | None, way: str) -> None:
    assert shlex.join(way_to(url, place)) == way


HOSTILE = "h\x1b]0;owned\x07\nrm -rf 'x' \\ $(id) \u202e \x9b1"


@pytest.mark.parametrize("verb", ["hosts", "status"])
def test_a_name_steers_no_terminal_and_ends_no_line(cli: Cli, broker: Broker, cards: Cards, verb: str) -> None:
    """Others may write names into the ledger; a line of a recipe is copied into a shell."""
    cards("GPU-a")
    broker.redis.sadd(broker.keys.hosts, HOSTILE)
    told = cli(verb, "--redis-cli").output
    broker.redis.srem(broker.keys.hosts, HOSTILE)
    assert "owned" in told
    assert all(line.isprintable() and line.startswith("redis-cli ") for line in told.splitlines())


@pytest.mark.parametrize("name", [HOSTILE, "plain", "two words", "it's", "\x01'1\\", "\t7", "é\n"])
def test_a_shell_reads_a_word_as_it_was(name: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine")
    seen = subprocess.run([bash, "-c", "printf %s " + quoted([name])], capture_output=True, check=True).stdout
    assert seen.decode() == name
