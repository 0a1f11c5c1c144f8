"""Who may come in: tokens, sites, sizes and rates."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from broker import Broker, InvalidRequest
from broker.http.auth import Scope, Tokens, parse_tokens
from broker.http.limits import Rate
from broker.http.problems import Problem
from broker.http.settings import HttpSettings, Limits, check_bind
from tests.http.conftest import ADMIN, OPERATOR, TOKENS, VIEWER, Serve

Cards = Callable[..., None]


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_scope_may_do_what_the_ones_below_it_may(serve: Serve, cards: Cards) -> None:
    cards("GPU-a")
    served = serve(tokens=TOKENS)
    seen = {}
    for name, token in (("none", ""), ("viewer", VIEWER), ("operator", OPERATOR), ("admin", ADMIN)):
        client = served.client(token)
        seen[name] = (
            client.get("/api/leases").status_code,
            client.post("/api/gpus/GPU-a/drain").status_code,
            client.put("/api/gpu/config", json={"temp_optimal": 60}).status_code,
            client.get("/api/me").json()["scope"],
        )
    assert seen == {
        "none": (401, 401, 401, None), "viewer": (200, 403, 403, "viewer"),
        "operator": (200, 200, 403, "operator"), "admin": (200, 200, 200, "admin"),
    }  # fmt: skip


def test_only_probes_page_and_schema_are_open(serve: Serve) -> None:
    client = serve(tokens=TOKENS).client()
    schema = client.get("/openapi.json").json()
    answers = {
        path: client.get(path.replace("{lease_id}", "a")).status_code
        for path, verbs in schema["paths"].items()
        if "get" in verbs
    }
    assert {path for path, status in answers.items() if status != 401} == {"/api/me", "/healthz", "/readyz"}
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("header", [
    b"Bearer", b"bearer wrong-token-0000000", b"Basic dmlld2Vy", b"Bearer \xff\xfe\xfd",
    "Bearer ключ-ключ-ключ-к".encode(), b"Token " + ADMIN.encode(), ADMIN.encode(), b"Bearer " + b"x" * 8000,
    b"Bearer " + ADMIN.encode()[:-1], b"Bearer " + ADMIN.encode() + b"0",
])  # fmt: skip
def test_what_is_no_known_token_has_no_scope(serve: Serve, header: bytes) -> None:
    client = serve(tokens=TOKENS).client()
    answer = client.get("/api/leases", headers=[(b"Authorization", header)])
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="gpubroker"')
    assert ADMIN not in answer.text


def test_a_token_of_any_bytes_is_compared_as_bytes() -> None:
    key = "ключ-ключ-ключ-к".encode()
    tokens = Tokens(HttpSettings(tokens="admin:" + key.decode()))
    assert tokens.caller("p", b"Bearer " + key).scope is Scope.ADMIN
    assert tokens.caller("p", b"Bearer " + key[:-1]).scope is None


def test_two_tokens_are_two_callers_and_both_are_good(serve: Serve) -> None:
    served = serve(tokens=f"viewer:{VIEWER},viewer:another-viewer-token")
    assert served.client("another-viewer-token").get("/api/leases").status_code == 200
    assert served.client(VIEWER).get("/api/leases").status_code == 200


def test_a_changed_token_file_counts_without_a_restart(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# tokens\nviewer:{VIEWER}\n\nadmin:{ADMIN}\n")
    client = serve(token_file=path).client(VIEWER)
    assert client.get("/api/leases").status_code == 200
    _replace(path, f"admin:{ADMIN}\n")
    assert _becomes(client, 401)
    _replace(path, f"viewer:{VIEWER}\n")
    assert _becomes(client, 200)
    _replace(path, f"viewer:{VIEWER}\nsuperuser:{ADMIN}\n")  # a slip lets nobody in
    assert _becomes(client, 401)
    path.unlink()
    assert _becomes(client, 401)


def _replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


def _becomes(client: httpx.Client, status: int) -> bool:
    deadline = time.monotonic() + 10
    while client.get("/api/leases").status_code != status:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("line", [
    "viewer", "viewer:", "viewer:short", "root:0123456789abcdef", "viewer:with blanks 0123456789",
    "VIEWER:0123456789abcdef",
    f"viewer:{'x' * 513}",
])  # fmt: skip
def test_a_line_that_is_none_is_named_by_its_number_alone(line: str) -> None:
    with pytest.raises(InvalidRequest, match="'line 2'") as told:
        parse_tokens([b"viewer:0123456789abcdef", line.encode()], "tokens")
    assert line.partition(":")[2] not in str(told.value) or len(line) < 8


def test_without_tokens_nobody_but_this_machine_is_served() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.invalid", ""):
        with pytest.raises(InvalidRequest, match="unless tokens are asked for"):
            check_bind(host, HttpSettings())
        check_bind(host, HttpSettings(tokens=TOKENS))
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        check_bind(host, HttpSettings())


def test_a_token_file_without_tokens_is_no_open_door(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("# none yet\n")
    with pytest.raises(InvalidRequest, match="a token at least"):
        Tokens(HttpSettings(token_file=tmp_path / "tokens"))
    with pytest.raises(InvalidRequest, match="can be read"):
        Tokens(HttpSettings(token_file=tmp_path / "nothing"))


# -- sites -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8390", "[::2]", "", "a b"]
)
def test_a_name_of_somebody_elses_does_not_lead_here(http: httpx.Client, host: str) -> None:
    assert http.get("/api/leases", headers={"Host": host}).status_code == 403
    assert http.get("/", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:99", "[::1]:8390", "LOCALHOST"])
def test_this_machines_own_names_lead_here(http: httpx.Client, host: str) -> None:
    assert http.get("/api/leases", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("headers", [
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "nonsense"},
])  # fmt: skip
def test_another_sites_page_may_ask_nothing(
    http: httpx.Client, broker: Broker, cards: Cards, headers: dict[str, str]
) -> None:
    cards("GPU-a")
    assert http.post("/api/gpus/GPU-a/drain", headers=headers).status_code == 403
    assert http.get("/api/leases", headers=headers).status_code == 403
    assert not broker.gpus()[0].drained


def test_the_servers_own_page_may(http: httpx.Client, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    own = {"Origin": str(http.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert http.post("/api/gpus/GPU-a/drain", headers=own).status_code == 200
    assert broker.gpus()[0].drained


def test_every_answer_tells_browsers_to_be_strict(http: httpx.Client) -> None:
    for path in ("/", "/api/leases", "/nothing", "/static/nothing", "/api/leases?x=1"):
        headers = http.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "access-control-allow-origin" not in headers


# -- sizes, forms and rates --------------------------------------------------------------------------------------------


def test_a_long_body_is_refused_before_it_is_read(http: httpx.Client) -> None:
    body = json.dumps({"memory": "1GiB", "lease_id": "x" * 70_000}).encode()
    answer = http.post("/api/gpu/memory/allocate", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "BodyTooLarge")
    chunks = (b"x" * 1000 for _ in range(100))
    answer = http.post("/api/gpu/memory/allocate", content=chunks, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_a_body_of_another_kind_is_refused(http: httpx.Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = http.post("/api/gpu/memory/allocate", content=b'{"memory": "1GiB"}', headers={"Content-Type": kind})
        assert answer.status_code == 415, kind


def test_a_client_over_its_rate_is_told_when_to_come_again(serve: Serve) -> None:
    served = serve(tokens=TOKENS, limits=Limits(rate=0.5, burst=3))
    hasty, other = served.client(VIEWER), served.client(ADMIN)
    statuses = [hasty.get("/api/leases").status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    refused = hasty.get("/api/leases")
    assert refused.headers["retry-after"] == "2"
    assert other.get("/api/leases").status_code == 200


def test_a_bucket_fills_up_again_and_no_further() -> None:
    now = [0.0]
    rate = Rate(2.0, 3, lambda: now[0])
    for _ in range(3):
        rate.take("a")
    with pytest.raises(Problem):
        rate.take("a")
    now[0] = 0.5
    rate.take("a")
    now[0] = 1000.0
    for _ in range(3):
        rate.take("a")
    with pytest.raises(Problem) as refused:
        rate.take("a")
    assert refused.value.headers == {"Retry-After": "1"}


def test_a_header_that_says_two_things_is_refused(http: httpx.Client) -> None:
    port = http.base_url.port
    with socket.create_connection(("127.0.0.1", port or 0)) as raw:
        raw.sendall(b"GET /api/leases HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 400")
