"""Writes a dashboard as Grafana's classic JSON. Refuses to know what is shown.

Source: Grafana's documentation of the dashboard JSON model, schema version 41.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dashboard.panel import Panel, Row

__all__ = ["dashboard"]

COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


def dashboard(rows: Sequence[Row]) -> Json:
    """Return the whole dashboard."""
    return {
        "uid": "dure",
        "title": "dure",
        "description": "One large language model across the machines you own: docs/monitoring.md",
        "tags": ["dure", "llm"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables())},
        "annotations": {"list": [_restarts()]},
        "links": [],
        "panels": list(_panels(rows)),
    }


def _variables() -> Iterator[Json]:
    yield {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
    }
    for name, label, query in (
        ("instance", "server", "label_values(dure_http_hung_up_total, instance)"),
        ("model", "model", 'label_values(dure_up{instance=~"$instance"}, model)'),
        ("node", "machine", 'label_values(dure_node_up{instance=~"$instance"}, node)'),
    ):
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": SOURCE,
            "definition": query,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


def _restarts() -> Json:
    return {
        "name": "Engine started again",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "orange",
        "expr": 'changes(dure_engine_restarts_total{instance=~"$instance"}[1m]) > 0',
        "titleFormat": "engine started again",
        "textFormat": "{{model}} on {{instance}}",
    }


def _panels(rows: Sequence[Row]) -> Iterator[Json]:
    number = y = 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            "panels": [],
        }
        y, x = y + 1, 0
        for panel in row.panels:
            number += 1
            if x + panel.width > COLUMNS:
                y, x = y + row.height, 0
            place = {"x": x, "y": y, "w": panel.width, "h": row.height}
            yield _panel(panel, number, place)
            x += panel.width
        y += row.height


def _panel(panel: Panel, number: int, place: Json) -> Json:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.tells,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [
            _target(panel, letter, *query)
            for letter, query in zip("ABCDEF", panel.queries, strict=False)
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
        "transformations": list(_transformations(panel)),
    }


def _target(panel: Panel, letter: str, query: str, legend: str) -> Json:
    return {
        "refId": letter,
        "datasource": SOURCE,
        "expr": query,
        "legendFormat": legend,
        "range": not panel.instant,
        "instant": panel.instant,
        "format": "table" if panel.kind == "table" else "time_series",
    }


def _defaults(panel: Panel) -> Json:
    found: Json = {"unit": panel.unit}
    if panel.decimals is not None:
        found["decimals"] = panel.decimals
    if panel.unit == "percentunit":
        found |= {"min": 0, "max": 1}
    if panel.states:
        found["mappings"] = [_mapping(panel.states)]
    if panel.kind == "timeseries":
        found["custom"] = {
            "drawStyle": "line",
            "fillOpacity": 40 if panel.stacked else 8,
            "lineWidth": 1,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    elif panel.kind == "state-timeline":
        found["custom"] = {"fillOpacity": 70, "lineWidth": 0}
    return found


def _mapping(states: Sequence[tuple[str, str]]) -> Json:
    return {
        "type": "value",
        "options": {
            str(value): {"text": text, "color": colour, "index": value}
            for value, (text, colour) in enumerate(states)
        },
    }


def _options(panel: Panel) -> Json:
    match panel.kind:
        case "timeseries":
            return {
                "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        case "stat":
            return {
                "colorMode": "background" if panel.states else "value",
                "graphMode": "none",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "textMode": "value_and_name",
            }
        case "state-timeline":
            return {"mergeValues": True, "showValue": "auto", "rowHeight": 0.8}
        case "table":
            return {"showHeader": True, "cellHeight": "sm"}


def _transformations(panel: Panel) -> Iterator[Json]:
    """Yield what leaves of a table only the columns that a person reads."""
    if panel.kind == "table":
        unread = ("Time", "Value", "__name__", "job", "severity", "rank", "key")
        yield {
            "id": "organize",
            "options": {"excludeByName": dict.fromkeys(unread, True)},
        }
