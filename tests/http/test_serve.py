"""`gpubroker serve` as people start it."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.http.conftest import ADMIN, TOKENS

Started = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def started(redis_url: str) -> Iterator[Started]:
    """Starts ``gpubroker serve`` with these words."""
    running: list[subprocess.Popen[str]] = []

    def start(*words: str, tokens: str = "") -> subprocess.Popen[str]:
        environment = {**os.environ, "GPUBROKER_REDIS_URL": redis_url, "GPUBROKER_HTTP_TOKENS": tokens}
        process = subprocess.Popen(
            [sys.executable, "-m", "broker.cli", "serve", "--port", "0", *words], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate(timeout=20)


def address(process: subprocess.Popen[str]) -> str:
    """Where it says that it listens."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"page     (https?://127\.0\.0\.1:\d+/)\n", line)
    assert found, line
    return found[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_with_an_open_stream(started: Started, number: int) -> None:
    process = started()
    with httpx.Client(base_url=address(process), trust_env=False) as http:
        assert http.get("/").status_code == 200
        with http.stream("GET", "/api/live") as live:
            lines = live.iter_lines()
            assert next(lines) == "retry: 2000"
            process.send_signal(number)
            assert process.wait(30) == 0
            for _ in lines:
                pass  # it was ended in an orderly way: else this raises
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.parametrize(("words", "code", "says"), [
    (("--host", "0.0.0.0"), 2, "unless tokens are asked for"),
    (("--token-file", "/nonexistent/tokens"), 2, "a file that can be read"),
    (("--tls-cert", __file__), 2, "go together"),
    (("--redis-url", "http://x"), 2, "redis_url="),
    (("--pool", "a b"), 2, "pool="),
    (("--host", "192.0.2.1"), 2, "unless tokens"),
])  # fmt: skip
def test_what_it_cannot_be_is_said_at_once(started: Started, words: tuple[str, ...], code: int, says: str) -> None:
    process = started(*words)
    _, told = process.communicate(timeout=20)
    assert (process.returncode, says in told) == (code, True), told
    assert "Traceback" not in told


def test_an_address_in_use_is_an_error_of_one_line(started: Started) -> None:
    first = started()
    port = address(first).rstrip("/").rpartition(":")[2]
    second = started("--port", port)
    _, told = second.communicate(timeout=20)
    assert (second.returncode, "cannot listen on 127.0.0.1 port" in told) == (1, True), told


def test_with_tokens_it_listens_anywhere_and_never_prints_one(started: Started) -> None:
    process = started("--host", "0.0.0.0", tokens=TOKENS)
    assert process.stdout is not None
    port = process.stdout.readline().strip().rstrip("/").rpartition(":")[2]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        assert http.get("/api/me", headers={"Authorization": f"Bearer {ADMIN}"}).json()["scope"] == "admin"
        assert http.get("/api/leases").status_code == 401
        http.get("/api/leases", headers={"Authorization": f"Bearer {ADMIN}x"})
    process.terminate()
    told = "".join(process.communicate(timeout=20))
    assert ADMIN not in told


def test_with_a_certificate_it_speaks_tls_alone(started: Started, tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days",
         "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    process = started("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    url = address(process)
    assert url.startswith("https://")
    trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with httpx.Client(base_url=url, verify=trusted, trust_env=False) as http:
        assert http.get("/healthz").json() == {"ok": True}
    with pytest.raises(httpx.HTTPError):
        httpx.get(url.replace("https", "http"), trust_env=False, timeout=5)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are read in /proc")
def test_it_may_have_as_many_connections_as_the_machine_allows(started: Started) -> None:
    """A service manager begins a process with 1,024 files: fewer than the streams that the server offers."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
    try:
        process = started()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    address(process)
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    found = re.search(r"Max open files +(\d+|unlimited)", limits)
    assert found is not None
    assert int(found[1]) == min(hard, 65_536)
