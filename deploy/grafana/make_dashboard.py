"""Writes the dashboard after a change of ``panels.py``: ``python deploy/grafana/make_dashboard.py``; ``-`` prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from panels import HERE, ROWS, Panel

TARGET = Path(__file__).parent / "dashboards" / "gpubroker.json"

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24


def dashboard() -> dict[str, Any]:
    """The whole of it, as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append({"type": "row", "title": title, "collapsed": False, "panels": [], "id": len(panels) + 1,
                       "gridPos": {"h": 1, "w": _WIDTH, "x": 0, "y": top}})  # fmt: skip
        top, left, high = top + 1, 0, 0
        for one in row:
            if left + one.width > _WIDTH:
                top, left, high = top + high, 0, 0
            place = {"h": one.height, "w": one.width, "x": left, "y": top}
            panels.append(_panel(one, len(panels) + 1, place))
            left, high = left + one.width, max(high, one.height)
        top += high
    return {
        "title": "gpubroker", "uid": "gpubroker", "tags": ["gpu", "rq"], "schemaVersion": 39, "version": 1,
        "editable": True, "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser", "annotations": {"list": []}, "links": [], "panels": panels,
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data", "current": {}},
            _variable("pool", "Pool", "label_values(gpubroker_ledger_up, pool)", several=False),
            _variable("Hostname", "Host", f"label_values(gpubroker_host_agent_up{{{HERE}}}, Hostname)", several=True),
        ]},
    }  # fmt: skip


def _panel(one: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "unit": one.unit,
        "thresholds": {"mode": "absolute", "steps": [{"color": colour, "value": at} for colour, at in one.thresholds]},
    }
    if one.most is not None:
        defaults |= {"min": 0, "max": one.most}
    if one.mappings:
        options = {at: {"text": text, "color": colour, "index": n} for n, (at, text, colour) in enumerate(one.mappings)}
        defaults["mappings"] = [{"type": "value", "options": options}]
    if one.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 20 if one.stacked else 0,
            "stacking": {"mode": "normal" if one.stacked else "none"},
        }
    return {
        "id": number, "type": one.kind, "title": one.title, "description": one.words, "gridPos": place,
        "datasource": _SOURCE, "fieldConfig": {"defaults": defaults, "overrides": []}, "options": _options(one),
        "targets": [
            {
                "refId": chr(ord("A") + at), "datasource": _SOURCE, "expr": query, "legendFormat": legend,
                "instant": one.instant, "range": not one.instant,
                "format": "table" if one.kind == "table" else "time_series",
            }
            for at, (query, legend) in enumerate(one.queries)
        ],
    }  # fmt: skip


def _options(one: Panel) -> dict[str, Any]:
    if one.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    if one.kind == "timeseries":
        return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    return {}


def _variable(name: str, label: str, query: str, *, several: bool) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "datasource": _SOURCE, "refresh": 2, "sort": 1,
        "query": {"query": query, "refId": name}, "definition": query, "multi": several, "includeAll": several,
        "allValue": ".*" if several else None, "current": {"text": "All", "value": "$__all"} if several else {},
    }  # fmt: skip


def text() -> str:
    """As it stands in the file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["-"]:
        sys.stdout.write(text())
    else:
        TARGET.write_text(text(), encoding="utf-8")
