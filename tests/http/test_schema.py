"""The schema is complete, and the server keeps to it whatever is sent: schemathesis, all checks, with data that it must
refuse; and no refused call has changed the ledger."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from pydantic import TypeAdapter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker import Broker, calls
from broker.http import examples
from broker.http.app import create_app
from broker.http.settings import HttpSettings, Limits
from broker.ledger.keys import Keys
from broker.publish import Publisher
from tests.conftest import report
from tests.http.conftest import ADMIN, TOKENS, keys_and_values, serving

#: What the ledger does by itself, whoever calls.
_BY_TIME = {"expired", "reclaimed", "unclaimed", "dropped", "left"}
_SECONDS = 45


class Witness:
    """Around the application: holds the ledger after each refused call against the ledger before it."""

    def __init__(self, url: str) -> None:
        self.url, self.calls, self.refused = url, 0, 0
        self.failures: list[str] = []
        self.broken: list[str] = []
        self._broker = Broker.from_url(url)

    def __call__(self, app: ASGIApp) -> ASGIApp:
        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            self._broker.reap()  # what time has ended is not the call's doing
            before, mark = self._ledger(), self._broker.last_event_id()
            status = 0

            async def seen(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            await app(scope, receive, seen)
            self.calls += 1
            what = f"{scope['method']} {scope['path']}?{scope['query_string'].decode('latin-1')}"[:300]
            if status >= 500:
                self.failures.append(f"{status} {what}")
            if 400 <= status < 500:
                self.refused += 1
                self._compare(before, mark, f"{status} {what}", waited=status == 409)
            return None

        return watched

    def _compare(self, before: dict[str, Any], mark: str, what: str, waited: bool) -> None:
        after = self._ledger()
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        if waited:  # who waited in vain has left traces in the queue's books and in the journal, but holds nothing
            changed = {name for name in changed if re.search(r":(lease|waiter|gpu|config|tenants)\b", name)}
        by_time = {event.kind for event in self._broker.events(mark)} & _BY_TIME
        if changed and not by_time:
            self.broken.append(f"{what} changed {sorted(changed)}")

    def _ledger(self) -> dict[str, Any]:
        # The ledger's own clock goes on with every call, and an index is written when it is next looked at.
        found = keys_and_values(self.url)
        return {
            name: value
            for name, value in found.items()
            if not name.endswith((":ledger", ":waiting", ":stale", ":wide"))
        }


@pytest.fixture
def pool(redis_url: str) -> Iterator[str]:
    """Two hosts with cards, a lease, and a waiter."""
    with Broker.from_url(redis_url) as broker:
        for host in ("studio-a", "studio-b"):
            Publisher(broker, host).publish([report(f"GPU-{host}-{index}", index) for index in range(2)], 3_600_000)
        broker.update_config(waiter_seconds=3600)
        broker.acquire("1GiB", lease_id="job-7", ttl=86_400)
        broker.call("acquire", *calls.ask("5GiB", lease_id="job-8", wait=3600, gpus=4).asking(True))
        yield redis_url


def test_no_call_that_the_schema_can_think_of_fails_or_changes_what_it_is_refused(pool: str, tmp_path: Path) -> None:
    witness = Witness(pool)
    settings = HttpSettings(redis_url=pool, tokens=TOKENS, limits=Limits(rate=1e6, burst=10**6, wait_seconds=0.1))
    config = tmp_path / "schemathesis.toml"
    config.write_text(_CONFIG)
    (tmp_path / "hooks.py").write_text(_HOOKS)
    with serving(settings, witness) as served:
        run = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run",
             f"{served.url}/openapi.json", "--url", served.url, "--no-color"],
            capture_output=True, text=True, cwd=tmp_path, timeout=110, check=False,
        )  # fmt: skip
    assert not witness.failures, witness.failures[:20]
    assert not witness.broken, witness.broken[:20]
    assert witness.refused > 100, run.stdout[-3000:]
    assert run.returncode == 0, run.stdout[-12_000:] + run.stderr[-2000:]


_CONFIG = f"""
seed = 1
max-time = {_SECONDS}
max-stream-events = 3
request-timeout = 15
continue-on-failure = true
workers = 1

hooks = "hooks.py"

[auth.openapi.token]
bearer = "{ADMIN}"

[generation]
mode = "all"
max-examples = 12
deterministic = true
database = "none"

# A lease that is over is no fault of the request.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "410"]

# Where nothing happens, a stream says nothing.
[[operations]]
include-path = ["/api/events", "/api/live"]
max-stream-events = 1
request-timeout = 1

# What fits the schema may be more than there is, or settings that do not ascend.
[[operations]]
include-path = ["/api/gpu/memory/allocate", "/api/leases/{{lease_id}}/resize", "/api/gpu/config", "/api/explain"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "410", "422"]
"""
#: A key is for one request; the same example for all of them would be refused.
_HOOKS = """
import uuid
import schemathesis

@schemathesis.hook
def before_call(context, case, kwargs):
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and 1 <= len(key) <= 128 and all("!" <= sign <= "~" for sign in key):
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
"""


# -- complete ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """As it stands at /openapi.json."""
    return create_app(HttpSettings(tokens=TOKENS)).openapi()


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each path and method."""
    for path, verbs in schema["paths"].items():
        for method, told in verbs.items():
            yield path, method, told


def test_every_operation_says_what_it_does_and_shows_how(schema: dict[str, Any]) -> None:
    for path, method, told in operations(schema):
        where = f"{method} {path}"
        assert len(told["summary"]) > 5, where
        assert len(told["description"]) > 5, where
        assert ("x-scope" in told) == ("security" in told), where
        for one in told.get("parameters", ()):
            assert one.get("description"), (where, one["name"])
            assert one["schema"].get("examples") or "default" in one["schema"] or not one["required"], (where, one)
        good = [status for status in told["responses"] if status.startswith("2")]
        assert len(good) == 1, where
        for kind, content in told["responses"][good[0]]["content"].items():
            assert content["schema"], (where, kind)
            assert kind != "application/json" or content["example"] is not None, where
        assert {"422", "429"} <= set(told["responses"]), where
        for status, answer in told["responses"].items():
            assert status.startswith("2") or list(answer["content"]) == ["application/problem+json"], (where, status)
        if "requestBody" in told:
            name = told["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert schema["components"]["schemas"][name]["examples"], where


def test_every_path_of_the_design_is_there(schema: dict[str, Any]) -> None:
    wanted = """
        GET /api/gpu/status  GET /api/gpu/status/all  GET /api/gpu/metrics  GET /api/gpu/metrics/history
        GET /api/gpu/temperature/trend  POST /api/gpu/memory/allocate  POST /api/gpu/memory/deallocate
        GET /api/gpu/memory/available  GET /api/gpu/throttle/status  POST /api/gpu/monitoring/start
        POST /api/gpu/monitoring/stop  GET /api/gpu/config  PUT /api/gpu/config  GET /api/leases  GET /api/waiters
        GET /api/events  GET /metrics  GET /healthz  GET /readyz
    """
    words = wanted.split()
    for method, path in zip(words[::2], words[1::2], strict=True):
        assert method.lower() in schema["paths"][path], (method, path)


def test_only_post_put_and_delete_change_anything(schema: dict[str, Any]) -> None:
    for path, method, told in operations(schema):
        assert method in ("get", "post", "put", "delete"), path
        assert (method == "get") == (told.get("x-scope", "viewer") == "viewer"), (method, path)


def test_the_examples_are_of_their_models() -> None:
    app = create_app(HttpSettings(tokens=TOKENS))
    from broker.http.app import PARTS

    models = {
        (method.lower(), route.path_format): route.response_model
        for part in PARTS for route in part.routes for method in route.methods or ()  # type: ignore[attr-defined]
    }  # fmt: skip
    for where, example in examples.ANSWERS.items():
        made = TypeAdapter(models[where]).validate_python(example)
        assert TypeAdapter(models[where]).dump_python(made, mode="json", by_alias=False) == example, where
    assert app.openapi()


def test_answers_are_of_the_models_that_the_schema_names(pool: str) -> None:
    from broker.http.app import PARTS

    settings = HttpSettings(redis_url=pool)
    with serving(settings) as served:
        http = served.client()
        for part in PARTS:
            for route in part.routes:
                path, model = route.path_format, route.response_model  # type: ignore[attr-defined]
                if "GET" not in route.methods or model is None:  # type: ignore[attr-defined]
                    continue
                asked = {"gpu": "GPU-studio-a-0"} if "history" in path or "trend" in path else {}
                asked |= {"memory": "1GiB"} if "explain" in path else {}
                answer = http.get(path.replace("{lease_id}", "job-7"), params=asked)
                assert answer.status_code == 200, (path, answer.text)
                adapter = TypeAdapter(model)
                again = adapter.dump_python(adapter.validate_python(answer.json()), mode="json")
                assert again == answer.json(), path


# -- for people --------------------------------------------------------------------------------------------------------


def test_the_reference_shows_every_operation_without_a_script(http: httpx.Client, schema: dict[str, Any]) -> None:
    text = http.get("/docs").text
    for path, method, _ in operations(schema):
        assert f"<code>{method.upper()} {path}</code>" in text
    assert "<script" not in text
    assert 'style="' not in text
    assert http.get("/static/reference.css").status_code == 200


Cards = Callable[..., None]


def test_answers_of_old_are_kept_beside_the_pool(http: httpx.Client, redis_url: str, cards: Cards) -> None:
    cards("GPU-a")
    http.post("/api/gpus/GPU-a/drain", headers={"Idempotency-Key": "k" * 20}).raise_for_status()
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        (name,) = client.keys("*answer*")
        assert name.startswith(Keys("default").answer(""))
        assert 500 < client.ttl(name) <= 600
