"""The alerts of ``deploy/prometheus/rules``: what each says, and its runbook."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]

from docs.make.markdown import code, table

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"
_LABEL = re.compile(r"\{\{ *\$labels\.(\w+)[^}]*\}\}")
_VALUE = re.compile(r"\{\{ *\$value[^}]*\}\}")


def is_there() -> bool:
    """Whether there are rules."""
    return FOLDER.is_dir()


def page() -> str:
    """Alert, severity, what it says, what to do."""
    rows = []
    for rule in rules():
        told = rule["annotations"]
        severity = rule.get("labels", {}).get("severity", "")
        rows.append((code(rule["alert"]), severity, _plain(told["summary"]), _plain(told["runbook"])))
    return table(("alert", "severity", "it says", "what to do"), rows)


def rules() -> Iterator[dict[str, Any]]:
    """Every alert of every file."""
    for path in sorted(FOLDER.glob("*.yml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            yield from (rule for rule in group["rules"] if "alert" in rule)


def _plain(text: str) -> str:
    """A text with names for what Prometheus puts in."""
    return _VALUE.sub("N", _LABEL.sub(lambda label: label[1].upper(), text))
