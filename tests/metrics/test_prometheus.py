"""A real Prometheus scrapes a pool, and answers what the dashboard asks."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from broker import Broker
from broker.metrics import Exporter, content_type
from tests.metrics.test_deploy_files import RULES, queries

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not here: apt install prometheus has it"
)  # fmt: skip

CONFIG = """
global: {{evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: gpubroker
    scrape_interval: 3s
    scrape_timeout: 3s
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


class Prometheus:
    """One on a free port, that scrapes one exporter."""

    def __init__(self, folder: Path, exporter: Exporter) -> None:
        class Metrics(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                accept = self.headers.get("accept", "")
                body = exporter.render(accept)
                self.send_response(200)
                self.send_header("content-type", content_type(accept))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._served = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
        threading.Thread(target=self._served.serve_forever, daemon=True).start()
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(rules=RULES, port=self._served.server_port))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{address}/api/v1"
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        self._process = subprocess.Popen(
            [*command, f"--web.listen-address={address}", "--log.level=error"], stderr=(folder / "log").open("w")
        )

    def asked(self, query: str) -> list[dict[str, Any]]:
        """What an instant query gives."""
        with urlopen(f"{self.url}/query?query={quote(query)}", timeout=30) as reply:
            found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
            return found

    def wait_for(self, query: str) -> list[dict[str, Any]]:
        """What it gives once it gives anything."""
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            try:
                if found := self.asked(query):
                    return found
            except URLError:  # it has not begun to listen
                pass
            time.sleep(0.1)
        raise AssertionError(f"nothing for {query}")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        self._served.shutdown()
        self._served.server_close()


@pytest.fixture
def prometheus(broker: Broker, cards: Callable[..., None], tmp_path: Path) -> Iterator[Prometheus]:
    """It scrapes a pool of one card, whose name would be an end of line and of everything."""
    cards("GPU-a", name='evil "}\n\x00 \\card', power_mw=1000)
    broker.acquire("1GiB", ttl=600)
    made = Prometheus(tmp_path, Exporter(broker, after="0"))
    yield made
    made.close()


def test_prometheus_scrapes_a_pool_and_answers_every_query_of_the_dashboard(prometheus: Prometheus) -> None:
    (card,) = prometheus.wait_for("gpubroker_gpu_memory_leased_bytes")
    assert card["value"][1] == str(1 << 30)
    assert card["metric"]["modelName"] == 'evil "}\ufffd\ufffd \\card'
    assert prometheus.asked('max_over_time(up{job="gpubroker"}[5m])')[0]["value"][1] == "1"
    assert prometheus.asked("gpubroker_lease_grants_total")[0]["value"][1] == "1"
    for _, query in queries():
        told = query.replace("$__rate_interval", "1m").replace("$pool", "default").replace("$Hostname", ".*")
        assert isinstance(prometheus.asked(told), list)
