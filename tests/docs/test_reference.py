"""The reference says what the code says."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

import broker
import worker_hooks
from broker import Broker
from broker.cli import main
from broker.journal import JOURNAL_KINDS
from broker.lease import Lease
from broker.thresholds import Thresholds
from broker.units import GIB
from docs.make import alerts, cli, configuration, decisions, doctor, events, http, python, states
from docs.make.markdown import docstring, table
from tests.docs.pages import DOCS


def rows(page: str) -> list[list[str]]:
    """The cells of a page's tables, without their heads."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line] for line in lines if not set("".join(line)) <= set("- ")]


def verbs() -> Iterator[tuple[click.Command, click.Context]]:
    return cli.verbs(main, click.Context(main, info_name="gpubroker"))


def test_every_verb_and_every_option_is_in_the_reference_of_the_command() -> None:
    page = cli.page()
    for command, context in verbs():
        _, _, section = page.partition(f"## {context.command_path}\n")
        section, _, _ = section.partition("\n## ")
        assert section, context.command_path
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert any(option in section for option in parameter.opts), (context.command_path, parameter.opts)
    assert "gpubroker worker\n" in page  # verbs of other houses too


def test_every_configurable_value_has_default_unit_bounds_and_meaning() -> None:
    told = {row[0].strip("`"): row for row in rows(configuration.page())[1:]}
    assert list(told) == list(Thresholds.model_fields)
    assert told["temp_optimal"] == ["`temp_optimal`", "`65`", "°C", "0 to 150", "below it OPTIMAL"]
    assert told["throttle_cooldown_seconds"][1:4] == ["`30`", "s", "0 to 86,400"]
    assert told["overuse_policy"][3] == "`report`, `revoke`, `kill`"
    assert told["memory_limit_mb"][1:3] == ["unset", "MiB"]
    assert all(len(row[4]) > 8 and row[3] for row in told.values())


def test_events_are_those_that_the_scripts_write() -> None:
    told = events.fields()
    assert set(told) == set(events.EVENTS) == JOURNAL_KINDS
    assert told["released"][:4] == ("id", "token", "gpu_uuids", "memory_bytes")
    assert {"why"} == set(told["reclaimed"]) - set(told["released"])
    assert "worker" in told["granted"]


def test_an_event_of_a_grant_carries_just_the_fields_of_the_reference(broker: Broker, cards: object) -> None:
    cards("GPU-a")  # type: ignore[operator]
    broker.acquire("1GiB", lease_id="one").release()
    known = events.fields()
    for event in broker.events():
        assert set(event.fields) <= set(known[event.kind]), event
        if event.kind in ("granted", "released", "joined", "state"):
            assert set(event.fields) >= set(known[event.kind]) - {"worker"}, event


def test_every_field_of_an_event_that_is_not_its_own_word_is_explained() -> None:
    text = (DOCS / "reference" / "events.md").read_text("utf-8")
    explained = set(re.findall(r"`([a-z_]+)`", text))
    everyday = {
        "id",
        "token",
        "gpu_uuids",
        "host",
        "memory_bytes",
        "waited_ms",
        "held_ms",
        "tenant",
        "why",
        "reason",
        "by",
    }
    assert everyday <= explained


def test_a_kind_that_is_not_described_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(events.EVENTS, "idle")
    with pytest.raises(ValueError, match="idle"):
        events.page()


def test_every_finding_of_the_doctor_is_described() -> None:
    assert doctor.abouts() - set(doctor.FINDINGS) == set()
    told = {row[0].strip("`"): row for row in rows(doctor.page())[1:]}
    assert {"persistence", "eviction", "agents", "waiter", "ledger"} <= set(told)
    assert all(row[1] and row[2] for row in told.values())


def test_the_python_reference_has_the_faces_and_nothing_inside() -> None:
    page = python.BROKER()
    for name in ("acquire", "lease", "leases", "available", "throttle", "explain", "update_config", "on", "trend"):
        assert f"#### Broker.{name} " in page
        assert f"#### AsyncBroker.{name} " in page or name == "on"
    for name in broker.__all__:
        assert re.search(rf"### {name}$|`{name}`", page, re.MULTILINE), name
    for name in worker_hooks.__all__:
        assert f"### {name}\n" in python.WORKER_HOOKS()
    for inner in python.INNER:
        assert f"Broker.{inner} " not in page
    assert "placement: str | None = None" in page


def test_what_is_kept_out_of_the_reference_exists() -> None:
    known = {name for kind in (Broker, Lease) for one in kind.__mro__ for name in vars(one)}
    assert python.INNER - known == set()


def test_the_table_of_a_leases_facts_is_that_of_a_lease(broker: Broker, cards: object) -> None:
    cards("GPU-a")  # type: ignore[operator]
    lease = broker.acquire("1GiB")
    facts = {name for name in vars(lease) if not name.startswith("_")} | {"gpus", "lost"}
    text = (DOCS / "reference" / "python.md").read_text("utf-8")
    _, _, section = text.partition("## A lease's facts")
    told = {name for row in rows(section.partition("\n## ")[0])[1:] for name in re.findall(r"`([a-z_]+)`", row[0])}
    assert told <= facts
    assert facts - told <= {"claim", "span"}  # for the ledger, and for whoever traces
    assert lease.memory_bytes == GIB
    lease.release()


def test_the_states_are_those_of_the_design() -> None:
    told = rows(states.page())[1:]
    assert told[0] == ["OPTIMAL", "below 65", "below 70", "1.0"]
    assert told[3] == ["CRITICAL", "above 85", "above 95", "0.0"]
    assert told[4][0] == "UNAVAILABLE"


def test_every_decision_is_in_their_index() -> None:
    page = decisions.page()
    assert all(f"]({path.name})" in page for path in decisions.pages())
    assert len(decisions.pages()) >= 17


@pytest.mark.skipif(not alerts.is_there(), reason="the alert rules are not in this checkout")
def test_every_alert_says_what_to_do() -> None:
    told = rows(alerts.page())[1:]
    assert len(told) == len(list(alerts.rules()))
    assert all(all(row) and "{{" not in "".join(row) for row in told)


@pytest.mark.skipif(not http.is_there(), reason="the HTTP application is not in this checkout")
def test_every_endpoint_is_in_the_reference_of_http() -> None:
    page, told = http.page(), http.openapi()
    assert "/api/gpu/status" in told["paths"]
    for path, methods in told["paths"].items():
        for method in methods:
            assert f"## {method.upper()} {path}\n" in page


def test_docstrings_become_markdown() -> None:
    text = "It does.\n\n::\n\n    for x in y:\n        z(x)\n\nArgs:\n    a: one\n        more.\n    b: two.\n"
    shown = "It does.\n\n```python\nfor x in y:\n    z(x)\n```\n\n- `a`: one more.\n- `b`: two."
    assert docstring(text) == shown
    assert docstring("So.\n\nRaises:\n    ``Bad``: no\n    room.\n") == "So.\n\nRaises: `Bad`: no room."


def test_a_cell_keeps_to_its_column() -> None:
    assert table(("a", "b"), [("x | y", "two\nlines")]) == "| a | b |\n| --- | --- |\n| x \\| y | two lines |\n"
