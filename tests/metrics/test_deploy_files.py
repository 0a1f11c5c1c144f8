"""Alert rules, scrape configuration and dashboard speak of metrics that the exporter really gives."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics_core import Metric

from broker import Broker
from broker.metrics import Exporter, exporter, pool
from broker.metrics import cards as card_families
from broker.metrics.look import Look
from broker.metrics.tally import Tally

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules" / "gpubroker.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "gpubroker.json"
#: What others give: Prometheus itself, DCGM-exporter, rq-exporter.
THEIRS = {"up", "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_POWER_USAGE", "rq_jobs"}
#: What it says of `modelName` and others: they are DCGM-exporter's, whose labels ours are to be joined with.
_OF_DCGM = "label names should be written in 'snake_case' not 'camelCase'"
_SHOWN = {"counter": "_total", "info": "_info"}
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here: apt install prometheus has it"
)  # fmt: skip


def given() -> dict[str, Metric]:
    """Every metric that an exporter can give, by the names of its samples."""
    seen = Look("p", 0, {"epoch": "1"})
    families = chain(
        card_families.families(seen), pool.families(seen), pool.server("p", {"redis_version": "7"}),
        Tally("p").collect(),
        exporter._Pool(Broker.from_url("redis://127.0.0.1:1").keys, "0", 0).families(),
    )  # fmt: skip
    return {
        family.name + suffix: family for family in families for suffix in _SUFFIXES.get(family.type, ("",))
    } | dict.fromkeys(("gpubroker_fsck_differences", "gpubroker_fsck_age_seconds"))  # type: ignore[arg-type]


def names_in(query: str) -> set[str]:
    """The metrics that a query asks for."""
    bare = re.sub(r'"[^"]*"', '""', re.sub(r"\b(by|on|without|group_left|ignoring)\s*\([^)]*\)", "", query))
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    words = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", bare)) - {"and", "or", "unless", "bool"}
    return {word for word in words if not re.search(rf"\b{word}\s*\(", bare)}


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> Iterator[dict[str, Any]]:
    return (panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row")


def queries() -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]


def test_alerts_ask_for_what_is_given() -> None:
    for alert in alerts():
        asked = names_in(alert["expr"])
        assert asked, alert["alert"]
        assert asked <= set(given()) | THEIRS, alert["alert"]


def test_every_alert_says_what_to_do() -> None:
    for alert in alerts():
        assert alert["alert"].startswith("Gpubroker")
        assert alert["labels"]["severity"] in ("info", "warning", "critical")
        assert set(alert["annotations"]) == {"summary", "runbook"}
        assert len(alert["annotations"]["runbook"]) > 60, alert["alert"]


def test_what_a_runbook_has_people_type_is_a_verb() -> None:
    from broker.cli import _VERBS

    for alert in alerts():
        for verb in re.findall(r"`gpubroker ([a-z]+)", alert["annotations"]["runbook"]):
            assert verb in {*_VERBS, "agent", "serve"}, (alert["alert"], verb)


def test_the_dashboard_asks_for_what_is_given() -> None:
    known = set(given()) | THEIRS
    for title, query in queries():
        asked = names_in(query)
        assert asked, title
        assert asked <= known, (title, asked - known)


def test_the_dashboard_shows_most_of_what_is_given() -> None:
    shown = {name for _, query in queries() for name in names_in(query)}
    assert len(shown & set(given())) > 35
    assert {"DCGM_FI_DEV_GPU_UTIL", "rq_jobs"} <= shown


def test_the_dashboard_is_the_one_that_its_script_makes() -> None:
    script = DEPLOY / "grafana" / "make_dashboard.py"
    made = subprocess.run([sys.executable, str(script), "-"], capture_output=True, text=True, check=True).stdout
    assert DASHBOARD.read_text(encoding="utf-8") == made, f"run python {script}"


def test_panels_do_not_lie_on_each_other() -> None:
    taken = set[tuple[int, int]]()
    for panel in panels():
        at = panel["gridPos"]
        own = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not own & taken, panel["title"]
        taken |= own
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"], source["uid"]) == (
        "prometheus", "http://prometheus:9090", "gpubroker-prometheus",
    )  # fmt: skip
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/gpubroker.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


def run(*words: str) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_has_every_metric_with_its_own_words() -> None:
    page = (DEPLOY.parent / "docs" / "metrics.md").read_text()
    lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `gpubroker_")}
    words = {
        family.name + _SHOWN.get(family.type, ""): f"| {family.type} |.*| {re.escape(family.documentation)} |"
        for family in given().values() if family is not None
    }  # fmt: skip
    for name, wanted in words.items():
        assert re.search(wanted.replace("|", r"\|"), lines.get(name, "")), name
    assert set(lines) == {*words, "gpubroker_fsck_differences", "gpubroker_fsck_age_seconds"}


@promtool
def test_promtool_reads_the_rules_and_each_fires_where_it_should() -> None:
    run("check", "rules", str(RULES))
    run("test", "rules", str(DEPLOY / "prometheus" / "gpubroker.test.yml"))


def test_every_alert_is_tested() -> None:
    tested = (DEPLOY / "prometheus" / "gpubroker.test.yml").read_text()
    assert [alert["alert"] for alert in alerts() if f'alertname="{alert["alert"]}"' not in tested] == []


@promtool
def test_promtool_reads_the_scrape_configuration() -> None:
    run("check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml"))


@promtool
def test_promtool_reads_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, (_, query) in enumerate(queries())
    ]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    run("check", "rules", str(path))


@promtool
def test_promtool_finds_nothing_to_say_about_the_metrics(broker: Broker, cards: Callable[..., None]) -> None:
    cards("GPU-a", power_mw=1000, utilization_percent=5)
    broker.acquire("1GiB", function="m.f").release()
    broker.acquire("1GiB")
    text = Exporter(broker, after="0").render().decode()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if not line.endswith(_OF_DCGM)]
    assert said == []
    assert done.stderr  # it did look
