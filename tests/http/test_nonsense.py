"""Bytes, names and numbers that mean nothing: refused with a reason, never a failure, and nothing is changed."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable

import httpx
import pytest

from broker import Broker
from tests.http.conftest import keys_and_values

Cards = Callable[..., None]

JSON = {"Content-Type": "application/json"}
DEEP = b"[" * 5000 + b"]" * 5000
BODIES = [
    b"", b"{", b"}", b"null", b"[]", b'"', b"\xff\xfe", b'{"memory": "1GiB\xff"}', b"\x00", b'{"memory": NaN}',
    b'{"memory": Infinity}', b'{"memory": -Infinity}', b'{"memory": 1e309}', b'{"memory": -0}', b'{"memory": 1.5}',
    b'{"memory": 9007199254740993}', b'{"memory": ' + b"9" * 5000 + b"}", b'{"memory": 0x10}', b'{"memory": 010}',
    b'{"memory": "1GiB", "memory": "2GiB"}', b'{"memory": "1GiB", "labels": ' + DEEP + b"}", DEEP,
    b'{"memory": "1GiB", "lease_id": "\\u0000"}', b'{"memory": "1GiB", "lease_id": "a\\nb"}',
    b'{"memory": "1GiB", "lease_id": "\\ud800"}', b'{"memory": "1GiB", "tenant": "\\u202e"}',
    b'{"memory": "1GiB", "lease_id": "a{b}"}', b'{"memory": "1GiB", "lease_id": "a b"}',
    b'{"memory": "1GiB", "ttl": 1e-320}', b'{"memory": "1GiB", "ttl": -1}', b'{"memory": "1GiB", "ttl": true}',
    b'{"memory": "1GiB", "priority": 1.0000000001}', b'{"memory": "1GiB", "cpus": ' + b"1" * 60 + b".0}",
    b'{"memory": "1GiB", "wait": 61}', b'{"memory": "1GiB", "labels": {"a": 1}}',
    b'{"memory": "1GiB", "labels": {"a=b": "c"}}', b'{"memory": ["1GiB", [["1GiB"]]]}', b'{"memory": []}',
    b'{"memory": "999999999999999T"}', b'{"memory": "1GiB", "gpus": 17}', b'{"memory": "0"}', b'{"memory": {}}',
    '{"memory": "１GiB"}'.encode(), b'\xef\xbb\xbf{"memory": "1GiB"}', b'{"memory": "1GiB"} {}',
]  # fmt: skip


def test_a_body_that_means_nothing_changes_nothing(http: httpx.Client, redis_url: str, cards: Cards) -> None:
    cards("GPU-a")
    before = keys_and_values(redis_url)
    for body in BODIES:
        answer = http.post("/api/gpu/memory/allocate", content=body, headers=JSON)
        assert answer.status_code in (400, 422), (body[:80], answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.json()) >= {"type", "title", "status", "detail", "code"}
        assert keys_and_values(redis_url) == before, body[:80]


NAMES = [
    "..", ".", "%2e%2e", "%00", "%0d%0a", "%ff%fe", "a%20b", "{x}", "%7Bx%7D", "a" * 200, "%F0%9F%92%A9", "-", "*",
    "%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E", "a;b", "a%3Fb", "~", "%25", "%E2%80%AE",
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/api/leases/{}"), ("POST", "/api/leases/{}/revoke"), ("DELETE", "/api/waiters/{}"),
    ("POST", "/api/gpus/{}/drain"), ("POST", "/api/hosts/{}/retire"), ("GET", "/api/gpu/status?gpu={}"),
    ("PUT", "/api/gpu/config?gpu={}"), ("GET", "/api/explain?id={}"), ("GET", "/api/events?after={}"),
])  # fmt: skip
def test_a_name_that_is_none_is_refused(http: httpx.Client, method: str, path: str) -> None:
    for name in NAMES:
        answer = _raw(http, method, path.format(name))
        assert 400 <= int(answer.split(b" ", 2)[1]) < 500, (name, answer[:300])
        assert b"<img" not in answer


def _raw(http: httpx.Client, method: str, path: str) -> bytes:
    """The answer to a path that no client of good manners would send."""
    body = {"PUT": b'{"temp_optimal": 60}', "POST": b"{}"}.get(method, b"")
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    answer = b""
    with socket.create_connection(("127.0.0.1", http.base_url.port or 0), timeout=10) as raw:
        raw.sendall(head.encode() + b"\r\n" + body)
        while part := raw.recv(65536):
            answer += part
    return answer


def test_a_number_that_is_none_is_refused(http: httpx.Client, cards: Cards) -> None:
    cards("GPU-a")
    asked = {"gpu": "GPU-a"}
    for value in ("nan", "inf", "-inf", "1e309", "0x5", "", " ", "1_0", "９", "9" * 400, "null", "5;", "+5", "5 "):
        for path, params in (
            ("/api/gpu/temperature/trend", {**asked, "minutes": value}),
            ("/api/gpu/metrics/history", {**asked, "limit": value}),
            ("/api/explain", {"memory": "1GiB", "priority": value}),
            ("/api/explain", {"memory": "1GiB", "cpus": value}),
        ):
            assert http.get(path, params=params).status_code == 422, (path, value)


STRANGE = [
    b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x00\xff", b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /api/gpu/memory/allocate HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/gpu/memory/allocate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
    b"GET /api/leases HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(3000)) + b"\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET //api//leases HTTP/1.1\r\nHost: localhost\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /static/../app.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /static/%2e%2e/app.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
]  # fmt: skip


def test_bytes_that_are_no_request_do_not_stop_the_server(http: httpx.Client) -> None:
    for raw in STRANGE:
        answer = b""
        with (
            socket.create_connection(("127.0.0.1", http.base_url.port or 0), timeout=10) as connection,
            contextlib.suppress(ConnectionError),  # it may hang up on what is no HTTP
        ):
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
        assert not answer[9:].startswith(b"5"), raw[:80]
        assert b"create_app" not in answer
        assert http.get("/healthz").status_code == 200


def test_a_request_that_is_told_twice_says_its_value_short(http: httpx.Client) -> None:
    problem = http.put("/api/gpu/config", json={"yield_to": "x y" * 5000}).json()
    assert (problem["field"], len(json.dumps(problem)) < 1000) == ("yield_to", True)


def test_nothing_is_changed_by_looking(http: httpx.Client, broker: Broker, redis_url: str, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB", lease_id="job", ttl=600)
    before = keys_and_values(redis_url)
    schema = http.get("/openapi.json").json()
    for path, verbs in schema["paths"].items():
        if "get" in verbs and path not in ("/api/events", "/api/live"):
            for method in ("GET", "HEAD", "OPTIONS"):
                http.request(method, path.replace("{lease_id}", "job"), params={})
    assert keys_and_values(redis_url) == before
