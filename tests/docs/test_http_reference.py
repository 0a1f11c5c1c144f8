"""Every request of the reference of HTTP, sent to `gpubroker serve` as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from broker import Broker, calls
from broker.units import GIB
from docs.make import http

pytestmark = pytest.mark.skipif(not http.is_there(), reason="the HTTP application is not in this checkout")


@pytest.fixture
def address(redis_url: str) -> Iterator[str]:
    """A server on a free port."""
    command = [sys.executable, "-m", "broker.cli", "serve", "--port", "0", "--redis-url", redis_url]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert server.stdout is not None
    said = ""
    for line in server.stdout:
        said += line
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            yield found[0]
            break
    else:
        pytest.fail(said)
    server.terminate()
    server.communicate(timeout=30)


def asked(line: str, address: str) -> int:
    """The status that a curl line of the page is answered with."""
    words = shlex.split(line.replace(http.ADDRESS, address))[1:]
    method, headers, body = "GET", {}, None
    while len(words) > 1:
        option = words.pop(0)
        if option == "-X":
            method = words.pop(0)
        elif option == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif option == "-d":
            body = words.pop(0).encode()
        else:
            assert option == "-N", option
    request = urllib.request.Request(words[0], data=body, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.read(1)  # a stream begins at once
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def test_every_request_of_the_page_is_answered_as_it_says(
    broker: Broker, cards: Callable[..., None], address: str
) -> None:
    cards("GPU-a", host="h1", total=8 * GIB)
    told, page, wrong = http.openapi(), http.page(), []
    for method, path, operation in http.endpoints(told):
        lease = broker.get("job-7")
        token = lease.token if lease else broker.acquire("4GiB", lease_id="job-7", ttl=600).token
        if "waiter" in path and not broker.waiters():
            broker.call("acquire", *calls.ask("4GiB", lease_id="job-8", wait=60).asking(True))
        line = http.curl(method, path, operation, told)
        assert f"```sh\n{line}\n```" in page
        if path.endswith("/allocate"):
            broker.release("job-7", token)
        for place, value in (("UUID", "GPU-a"), ("HOST", "h1"), ("WAITER", "job-8"), ("TOKEN", str(token))):
            line = line.replace(place, value)
        status = asked(re.sub(r"\bID\b", "job-7", line), address)
        expected = 409 if path.endswith("/retire") else int(next(one for one in operation["responses"] if one < "3"))
        if status != expected:
            wrong.append((line, status, json.dumps(operation["responses"])[:80]))
        for waiter in broker.waiters():
            broker.cancel(waiter.id)
    assert wrong == []
