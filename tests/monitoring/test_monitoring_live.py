"""Every panel and rule against a real Prometheus, which scrapes a server of two ranks and a router.

What cannot be had everywhere is made by the shortest real means: a sensor is a file in /sys, which a mount
puts there for the server alone; a pod is in a ledger; an engine was started again as a rank was killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest

from dure.pods.ledger import Ledger
from tests.pods.test_pod_decide import ENTRY
from tests.support.dure_process import DURE
from tests.support.dure_server import DEMO, GREEDY, MESSAGES, Home, Serving, end
from tests.support.monitoring import (
    RULES,
    WAIT_S,
    Prometheus,
    as_grafana_asks,
    metrics_of,
    needs_prometheus,
    prometheus,
    queries,
)
from tests.support.needs_root import needs_root
from tests.support.routing import routing, upstream

pytestmark = [needs_root, needs_prometheus]

KEY = "sk-scraper-0123456789"
SENSORS = 'mount --bind "$0" /sys/class && exec "$@"'
NOBODY = "127.0.0.1:9"  # the port of discard


def behind(directory: Path, name: str) -> tuple[object, ...]:
    """The options of a server with a key; its access log is more than a pipe holds."""
    return ("--api-key-file", directory / "keys", "--log-file", directory / f"{name}.log")


@contextmanager
def served(directory: Path) -> Iterator[Serving]:
    """A server of two ranks with a key, on a machine that has sensors of temperature and power."""
    zone, meter = directory / "class/thermal/thermal_zone0", directory / "class/hwmon/hwmon0"
    for folder, files in (
        (zone, {"type": "cpu-thermal\n", "temp": "61500\n"}),
        (meter, {"name": "power_meter\n", "power1_average": "23500000\n"}),
    ):
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_text(content)
    (directory / "keys").write_text(f"scraper:{KEY}\n")
    (directory / "keys").chmod(0o600)
    options = ("--ranks", 2, "-t", 1, "--port", 0, *behind(directory, "server"))
    process = subprocess.Popen(
        [
            *("unshare", "--mount", "sh", "-c", SENSORS, str(directory / "class")),
            *(*DURE, "serve", str(DEMO), *map(str, options)),
        ],
        env={**Home(directory).dure.environment, "DURE_PODS": str(directory / "pods")},
        stderr=subprocess.PIPE,
    )
    server = Serving(process)
    ledger = Ledger(directory / "pods")
    ledger.intend(msgspec.structs.replace(ENTRY, seen_at=time.time()))
    ledger.close()
    try:
        server.wait_ready()
        yield server
    finally:
        process.terminate()
        process.communicate(timeout=WAIT_S)
        end(process)


def ask(url: str, stop: threading.Event) -> None:
    """Ask for a story, and for the same again, until told to stop: its text is drafted."""
    messages = list(MESSAGES)
    with httpx.Client(headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client:
        while not stop.is_set():
            body = {**GREEDY, "messages": messages, "max_tokens": 60}
            answer = client.post(f"{url}/v1/chat/completions", json=body)
            if answer.status_code == 200:  # not while the engine is started again
                told = answer.json()["choices"][0]["message"]
                messages = [*MESSAGES, told, *MESSAGES] if len(messages) == 1 else list(MESSAGES)


@contextmanager
def asked(url: str) -> Iterator[None]:
    """Somebody asks all the time."""
    stop = threading.Event()
    thread = threading.Thread(target=ask, args=(url, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a server, a router before it, and an address where nobody answers."""
    directory = tmp_path_factory.mktemp("monitoring")
    with served(directory) as server:
        (directory / "key").write_text(KEY)
        (directory / "key").chmod(0o600)
        rules = "[route]\ndaily-usd = 1e6\nworth-usd-per-s = 1e6\n" + upstream(
            "board",
            server.url,
            key_file=str(directory / "key"),
            usd_per_million_answer_tokens=1e6,
            daily_usd=1e6,
        )
        rules += upstream("desk", f"http://{NOBODY}", wake="d8:3a:dd:01:02:03", start_s=9000)
        rules += upstream("gone", f"http://{NOBODY}")
        with routing(directory / "router", rules, *behind(directory, "router")) as router:
            targets = [url.removeprefix("http://") for url in (server.url, router.url)]
            with asked(router.url), prometheus(directory, [*targets, NOBODY], KEY) as scraping:
                scraping.wait_for("rate(dure_generated_tokens_total[1m]) > 0")
                family = server.engine().children(recursive=True)
                rank = next(p for p in family if "dure.engine.ranks.rank" in p.cmdline())
                os.kill(rank.pid, signal.SIGKILL)
                yield scraping


def test_a_server_with_keys_is_scraped_with_the_key_of_the_file(scraped: Prometheus) -> None:
    """Without it there is nothing to read; nobody answers at the third address."""
    targets = {one["scrapeUrl"]: one for one in scraped.get("targets")["activeTargets"]}
    up = {
        one["metric"]["instance"]: one["value"][1]
        for one in scraped.get("query", query="up")["result"]
    }
    assert up.pop(NOBODY) == "0"
    assert set(up.values()) == {"1"}
    assert len(up) == 2
    for instance in up:
        assert httpx.get(f"http://{instance}/metrics").status_code == 401
        assert targets[f"http://{instance}/metrics"]["lastError"] == ""


@pytest.mark.parametrize(("panel", "query"), queries())
def test_every_query_of_the_dashboard_has_data(scraped: Prometheus, panel: str, query: str) -> None:
    """Numbers, not only an expression that can be read; at some time since the start for what passes."""
    asked_for = as_grafana_asks(query)
    found = scraped.wait_for(
        f"last_over_time(({asked_for})[10m:1s])" if panel != "Alerts" else query
    )
    assert found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_metric_of_a_rule_is_there_and_the_rule_is_computed(
    scraped: Prometheus, rule: dict[str, str]
) -> None:
    """Prometheus computes it without an error, and each metric that it reads is a series."""
    for name in metrics_of(rule["expr"]):
        scraped.wait_for(name)
    (found,) = (
        one
        for group in scraped.get("rules", type="alert")["groups"]
        for one in group["rules"]
        if one["name"] == rule["alert"]
    )
    assert found["health"] in {"ok", "unknown"}
    assert not found.get("lastError")


def test_what_is_wrong_here_is_an_alert(scraped: Prometheus) -> None:
    """Somebody unreachable, an upstream that is gone but not one that sleeps, and much money."""
    for name, label, value in (
        ("DureServerUnreachable", "instance", NOBODY),
        ("DureUpstreamDown", "target", "gone"),
    ):
        scraped.wait_for(f'ALERTS{{alertname="{name}", {label}="{value}"}}')
    scraped.wait_for('ALERTS{alertname="DureSpendHigh", alertstate="firing"}')
    assert not scraped.numbers('ALERTS{alertname="DureUpstreamDown", target=~"board|desk"}')
    alerts = scraped.get("alerts")["alerts"]
    (spent,) = (one for one in alerts if one["labels"]["alertname"] == "DureSpendHigh")
    assert spent["annotations"]["summary"].startswith("answers have cost $")


def test_the_time_of_a_step_is_the_sum_of_its_parts(scraped: Prometheus) -> None:
    """What "A step, in parts" stacks is what a step takes, when nothing is cut off below zero."""
    parts = [as_grafana_asks(query) for panel, query in queries() if panel == "A step, in parts"]
    assert len(parts) == 3
    total = (
        "sum by (instance, model) (rate(dure_step_seconds_total[1m]) / rate(dure_steps_total[1m]))"
    )
    stacked = " + ".join(f"({part})" for part in parts)
    (found,) = scraped.wait_for(f"({stacked}) / ({total})")
    assert found == pytest.approx(1, rel=0.05)


def test_nothing_is_left_running(tmp_path: Path) -> None:
    """Prometheus ends with its block."""
    with prometheus(tmp_path, [NOBODY]) as scraping:
        port = scraping.url.rpartition(":")[2]
        (process,) = (
            one
            for one in psutil.process_iter()
            if one.name() == "prometheus" and str(tmp_path) in " ".join(one.cmdline())
        )
    assert not process.is_running()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/")
