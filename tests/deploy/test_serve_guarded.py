"""`gpubroker serve` under the broker's user, over TLS with a certificate of the test's, as a process of its own."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from broker.units import GIB
from tests.deploy.guarded import POOL, Guarded
from tests.deploy.servers import HOST, free_port, until

TOKENS = {scope: f"{scope}-token-of-the-test" for scope in ("viewer", "operator", "admin")}
PATIENCE = 30


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A pool under users with few rights."""
    with Guarded(tmp_path_factory.mktemp("acl")) as made:
        yield made


@pytest.fixture(scope="module")
def address(guarded: Guarded, certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the server listens. Its tokens are in a file, as the unit for systemd gives them."""
    guarded.fill()
    folder, port = tmp_path_factory.mktemp("serve"), free_port()
    (folder / "tokens").write_text("".join(f"{scope}:{token}\n" for scope, token in TOKENS.items()))
    command = [
        sys.executable, "-m", "broker.cli", "serve", "--host", HOST, "--port", str(port),
        "--token-file", str(folder / "tokens"),
        "--tls-cert", str(certificate.parent / "cert.pem"), "--tls-key", str(certificate.parent / "key.pem"),
    ]  # fmt: skip
    environment = {**os.environ, "GPUBROKER_REDIS_URL": guarded.url("broker"), "GPUBROKER_POOL": POOL}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    url = f"https://{HOST}:{port}"
    try:
        until(lambda: _healthy(url), "a healthy server", PATIENCE)
        yield url
    finally:
        process.terminate()
        assert process.wait(PATIENCE) in (0, -15)
    told = (folder / "log").read_text()
    assert not any(secret in told for secret in (*TOKENS.values(), *guarded.passwords.values()))


def _healthy(url: str) -> bool:
    words = [sys.executable, "-m", "broker.cli", "healthy", "serve", "--url", url]
    return subprocess.run(words, capture_output=True).returncode == 0


def _client(address: str, certificate: Path, scope: str) -> httpx.Client:
    trust = ssl.create_default_context(cafile=str(certificate.parent / "cert.pem"))
    headers = {"Authorization": f"Bearer {TOKENS[scope]}"}
    return httpx.Client(base_url=address, headers=headers, verify=trust, trust_env=False, timeout=PATIENCE)


def test_everything_that_http_does_is_within_the_rights_of_the_brokers_user(
    guarded: Guarded, address: str, certificate: Path
) -> None:
    guarded.fill()
    with _client(address, certificate, "admin") as admin:
        paths = admin.get("/openapi.json").raise_for_status().json()["paths"]
        known = {"gpu": "GPU-a", "uuid": "GPU-a", "lease_id": "held", "id": "held", "memory": "1GiB", "host": "h1"}
        asked = 0
        for path, methods in paths.items():
            if "get" not in methods or path in ("/api/events", "/api/live"):
                continue
            names = {one["name"] for one in methods["get"].get("parameters", []) if one["in"] == "query"}
            query = {name: known[name] for name in names if name in ("gpu", "id")}
            answer = admin.get(re.sub(r"\{(\w+)\}", lambda found: known[found[1]], path), params=query)
            assert answer.status_code == 200, (path, answer.text)
            asked += 1
        assert asked >= 15
        with admin.stream("GET", "/api/events", params={"after": "0"}) as events:
            assert any(line.startswith("event:") for line in events.iter_lines())
        key = {"Idempotency-Key": "the-same"}
        body = {"memory": GIB // 4, "lease_id": "by-http"}
        first = admin.post("/api/gpu/memory/allocate", json=body, headers=key)
        assert first.status_code == 201, first.text
        assert admin.post("/api/gpu/memory/allocate", json=body, headers=key).json() == first.json()
        given = {"lease_id": "by-http", "token": first.json()["token"]}
        assert admin.post("/api/gpu/memory/deallocate", json=given).status_code == 200
        assert admin.put("/api/gpu/config", json={"temp_optimal": 60}).status_code == 200
        for path in ("/api/gpus/GPU-a/drain", "/api/gpus/GPU-a/undrain", "/api/leases/held/revoke"):
            assert admin.post(path, json={}).status_code == 200, path
        assert admin.delete("/api/waiters/waits").status_code == 200
    assert guarded.denied() == []


def test_a_client_that_does_not_trust_the_certificate_sends_no_token(address: str) -> None:
    with httpx.Client(base_url=address, trust_env=False) as stranger, pytest.raises(httpx.ConnectError, match="CERT"):
        stranger.get("/api/me")


def test_the_server_speaks_no_plain_http_on_that_port(address: str) -> None:
    with httpx.Client(trust_env=False) as plain, pytest.raises(httpx.HTTPError):
        plain.get(address.replace("https", "http") + "/healthz")
    assert _healthy(address), "and goes on"
