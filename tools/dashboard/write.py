"""Writes deploy/monitoring/grafana/dashboards/dure.json: `make docs`."""

from __future__ import annotations

import json
from pathlib import Path

from dashboard.grafana import dashboard
from dashboard.rows import ROWS

__all__ = ["FILE", "text"]

FILE = Path(__file__).parents[2] / "deploy/monitoring/grafana/dashboards/dure.json"


def text() -> str:
    """Return what the file holds."""
    return json.dumps(dashboard(ROWS), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
