"""The files of deploy/monitoring as Prometheus and Grafana read them, and a Prometheus that runs with them.

Knows Prometheus' HTTP API. Refuses to know which figures there are.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana/dashboards/dure.json").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
WAIT_S = 120.0  # detects a hang; nothing is measured with it
METRIC = re.compile(r"\b(?:dure|process|vllm|llamacpp)[_:][a-z_:]+\b|\bup\b|\bALERTS\b")

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="apt install prometheus",
)


def panels() -> list[dict[str, Any]]:
    """Return the panels that show figures."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> list[tuple[str, str]]:
    """Return every query of the dashboard, with the title of its panel."""
    of_panels = [(panel["title"], one["expr"]) for panel in panels() for one in panel["targets"]]
    return [*of_panels, *((one["name"], one["expr"]) for one in DASHBOARD["annotations"]["list"])]


def metrics_of(expression: str) -> set[str]:
    """Return the names of the metrics that a PromQL expression reads."""
    return set(METRIC.findall(re.sub(r'"[^"]*"', '""', expression)))


def as_grafana_asks(query: str) -> str:
    """Return a query with what Grafana puts in, if everything is chosen."""
    for name, value in (("$__rate_interval", "1m"), ("$__range", "30m")):
        query = query.replace(name, value)
    return re.sub(r"\$[a-z]+", ".*", query)


class Prometheus:
    """A Prometheus that runs. url: of its HTTP API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the API. Raises if it refuses, as a wrong expression."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def numbers(self, expression: str) -> list[float]:
        """Return the present values of an expression that are numbers."""
        found = self.get("query", query=expression)["result"]
        return [value for one in found if (value := float(one["value"][1])) == value]

    def wait_for(self, expression: str) -> list[float]:
        """Return the values of an expression as soon as it has any."""
        end = time.monotonic() + WAIT_S
        while not (found := self.numbers(expression)):
            assert time.monotonic() < end, f"{expression} has no data"
            time.sleep(0.2)
        return found


@contextmanager
def prometheus(directory: Path, targets: Sequence[str], key: str = "none") -> Iterator[Prometheus]:
    """Run Prometheus with the files of deploy/monitoring, but with these targets, and every second."""
    copied = directory / "monitoring"
    shutil.copytree(MONITORING, copied)
    config = copied / "prometheus.yml"
    config.write_text(re.sub(r"_interval: \d+s", "_interval: 1s", config.read_text()))
    (copied / "targets.yml").write_text(json.dumps([{"targets": list(targets)}]))
    (copied / "api-key").write_text(f"{key}\n")
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'series'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stderr=log,
        )
    try:
        yield Prometheus(f"http://127.0.0.1:{_port_of(process)}")
    finally:
        process.terminate()
        process.wait(WAIT_S)


def _port_of(process: subprocess.Popen[bytes]) -> int:
    """Return the port that it chose, which it does not tell."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        assert process.poll() is None, "Prometheus has ended"
        for one in psutil.Process(process.pid).net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN:
                port: int = one.laddr.port
                return port
        time.sleep(0.05)
    raise AssertionError("Prometheus does not listen")
