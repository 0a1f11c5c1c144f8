"""`gpubroker acl`: whom it makes, where it puts their passwords, and that nobody else sees them."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker import Broker, PoolUnavailable, acl
from broker.cli import main
from tests.deploy.servers import Server
from tests.deploy.versions import acl_version


def run(*words: str, **environment: str) -> Result:
    """The verb, with nothing of the test's own environment that it reads."""
    clean = dict.fromkeys((name for name in os.environ if name.startswith(("GPUBROKER_", "RQ_"))), None)
    return CliRunner().invoke(main, ["acl", "--server", acl_version(), *words], env={**clean, **environment})


def _passwords(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(GPUBROKER_[A-Z]+_PASSWORD)=(\S+)$", text, re.MULTILINE))


def _hashes(text: str) -> dict[str, str]:
    return dict(re.findall(r"(gpubroker-\S+) (?:reset )?on #([0-9a-f]{64}) ", text))


def test_passwords_are_shown_once_on_stderr_and_only_their_hashes_on_stdout() -> None:
    first, second = run(), run()
    assert first.exit_code == 0
    shown = _passwords(first.stderr)
    assert set(shown) == {f"GPUBROKER_{role.upper()}_PASSWORD" for role in acl.USUAL}
    assert all(len(password) == 32 for password in shown.values())
    assert not any(password in first.stdout for password in shown.values())
    assert set(_hashes(first.stdout).values()) == {hashlib.sha256(word.encode()).hexdigest() for word in shown.values()}
    assert not set(shown.values()) & set(_passwords(second.stderr).values()), "each time they are new"
    assert first.stdout.startswith("user default off\n")


def test_only_the_roles_asked_for_are_made_for_the_pool_asked_for() -> None:
    told = run("--role", "viewer", "--role", "agent", "--role", "viewer", "--pool", "night")
    assert list(_hashes(told.stdout)) == ["gpubroker-night-viewer", "gpubroker-night-agent"]
    assert "{default}" not in told.stdout


def test_a_server_takes_the_file_and_the_users_of_another_run_stay(tmp_path: Path) -> None:
    file, secrets = tmp_path / "users.acl", tmp_path / "secrets"
    file.write_text("user somebody on nopass ~own:* +get\n")
    assert run("--out", str(file), "--secrets", str(secrets)).exit_code == 0
    told = run("--out", str(file), "--pool", "night", "--role", "viewer")
    night = _passwords(told.stderr)["GPUBROKER_VIEWER_PASSWORD"]
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(secrets.stat().st_mode) == 0o600
    own = _passwords(secrets.read_text())["GPUBROKER_VIEWER_PASSWORD"]
    with Server({"aclfile": file}, user=("gpubroker-default-viewer", own)) as server:
        for name, password, pool in (("default", own, "default"), ("night", night, "night")):
            with Broker.from_url(f"redis://gpubroker-{name}-viewer:{password}@{server.address}/0", pool=pool) as broker:
                assert broker.leases() == []
        with Broker.from_url(server.url) as nobody, pytest.raises(PoolUnavailable, match="USER:PASSWORD"):
            nobody.leases()
    assert file.read_text().splitlines().count("user default off") == 1
    assert "user somebody on nopass ~own:* +get" in file.read_text()


def test_a_server_that_runs_takes_the_commands_and_what_a_user_had_before_is_gone() -> None:
    told = run("--setuser", "--role", "viewer", "--role", "worker")
    assert "default off" not in told.stdout
    password = _passwords(told.stderr)["GPUBROKER_VIEWER_PASSWORD"]
    with Server() as server:
        server.client.execute_command(
            "ACL", "SETUSER", "gpubroker-default-viewer", "on", ">older-password", "~*", "+@all"
        )
        for line in told.stdout.splitlines():
            assert server.client.execute_command(*line.split()) in ("OK", True)
        with Broker.from_url(f"redis://gpubroker-default-viewer:{password}@{server.address}/0") as viewer:
            assert viewer.leases() == []
            with pytest.raises(PoolUnavailable, match="may not"):
                viewer.reap()
        older_url = f"redis://gpubroker-default-viewer:older-password@{server.address}/0"
        with Broker.from_url(older_url) as older, pytest.raises(PoolUnavailable):
            older.leases()


def test_secrets_are_kept_in_a_file_that_fills_up_once(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "# mine\nGPUBROKER_AGENT_PASSWORD=chosen-by-somebody\nGPUBROKER_VIEWER_PASSWORD=\nGRAFANA_ADMIN_PASSWORD=\n"
        "GPUBROKER_ADMIN_TOKEN=\nGPUBROKER_POOL=\n"
    )
    first = run("--secrets", str(file), "--role", "agent", "--role", "viewer")
    assert first.exit_code == 0, first.output
    assert first.stderr == ""
    text = file.read_text()
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert text.startswith("# mine\n")
    assert values["GPUBROKER_AGENT_PASSWORD"] == "chosen-by-somebody"
    assert values["GPUBROKER_POOL"] == ""
    made = [values[name] for name in ("GPUBROKER_VIEWER_PASSWORD", "GRAFANA_ADMIN_PASSWORD", "GPUBROKER_ADMIN_TOKEN")]
    assert len(set(made)) == 3
    assert all(len(one) == 32 for one in made)
    assert acl.hash_of("chosen-by-somebody") in first.stdout
    assert run("--secrets", str(file), "--role", "agent", "--role", "viewer").stdout == first.stdout
    assert file.read_text() == text, "what has a value keeps it"


def test_passwords_or_their_hashes_come_from_the_environment() -> None:
    word = "sixteen-letters-and-more"
    told = run("--role", "viewer", "--passwords", "env", GPUBROKER_VIEWER_PASSWORD=word)
    assert acl.hash_of(word) in told.stdout
    assert word not in told.output
    again = run("--role", "viewer", "--passwords", "hashes", GPUBROKER_VIEWER_SHA256=acl.hash_of(word))
    assert again.stdout == told.stdout


@pytest.mark.parametrize(
    ("words", "environment", "names"),
    [
        (["--passwords", "env"], {}, "GPUBROKER_VIEWER_PASSWORD"),
        (["--passwords", "env"], {"GPUBROKER_VIEWER_PASSWORD": "short"}, "at least 16"),
        (["--passwords", "env"], {"GPUBROKER_VIEWER_PASSWORD": "secret words with blanks"}, "without a space"),
        (["--passwords", "hashes"], {"GPUBROKER_VIEWER_SHA256": "A" * 64}, "GPUBROKER_VIEWER_SHA256"),
        (["--pool", "a b"], {}, "pool"),
        (["--rq-prefix", "rq ~*"], {}, "rq_prefix"),
        (["--out", "/nowhere/at/all"], {}, "/nowhere/at/all"),
        (["--secrets", "x", "--passwords", "env"], {}, "--secrets"),
        (["--role", "root"], {}, "root"),
    ],
)
def test_what_is_not_allowed_is_named_without_the_secret(
    words: list[str], environment: dict[str, str], names: str
) -> None:
    told = run("--role", "viewer", *words, **environment)
    assert told.exit_code == 2, told.output
    assert names in told.stderr
    assert told.stdout == ""
    assert not any(value in told.output for name, value in environment.items() if name.endswith("PASSWORD"))


def test_a_file_for_an_older_server_has_no_command_that_it_does_not_know() -> None:
    older, newer = run("--server", "7.0").stdout, run("--server", "7.2").stdout
    assert "client|setinfo" not in older
    assert newer.count("+client|setinfo") == len(acl.USUAL)


def test_rq_keys_under_another_prefix_are_what_a_worker_gets() -> None:
    told = run("--role", "worker", RQ_KEY_PREFIX="{night}:rq")
    assert " ~{night}:rq:* &{night}:rq:pubsub:* " in told.stdout
    assert " ~rq:*" not in told.stdout
