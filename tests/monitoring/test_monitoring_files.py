"""The files of deploy/monitoring: what Prometheus, Grafana and compose read, without running them."""

from __future__ import annotations

import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboard.write import FILE, text

from tests.support.monitoring import (
    DASHBOARD,
    MONITORING,
    RULES,
    metrics_of,
    needs_prometheus,
    panels,
    queries,
)

DOCS = Path(__file__).parents[2] / "docs"
OF_PROMETHEUS = {"up", "ALERTS"}
CURES = re.compile(
    r"`dure |begin with|end |give |change |cure|compare|see |start |take |raise |report|need less|shorten",
    re.IGNORECASE,
)


def told_metrics() -> dict[str, str]:
    """The names that docs/metrics.md has, with their types; a histogram's series too."""
    page = (DOCS / "metrics.md").read_text()
    found = dict(re.findall(r"^\| `([^`]+)` \| (\w+) \|", page, re.MULTILINE))
    for name in [name for name, kind in found.items() if kind == "histogram"]:
        found |= {f"{name}_{part}": "counter" for part in ("bucket", "sum", "count")}
    return found


# Grafana


def test_the_dashboard_is_what_its_rows_say() -> None:
    """The file is made of tools/dashboard, and not stale."""
    assert FILE.read_text() == text(), "stale: run `make docs`"


def test_panels_have_a_number_and_a_place_of_their_own() -> None:
    """No two share an id, none lies on another or outside of the 24 columns, and all have a place."""
    found = DASHBOARD["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    for panel in found:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
        assert place["h"] > 0
    for one, other in combinations([panel["gridPos"] for panel in found], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_tells_and_in_which_unit(panel: dict[str, Any]) -> None:
    """It has a help, a unit, a legend for each query, and asks for the chosen servers."""
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    assert len({one["refId"] for one in panel["targets"]}) == len(panel["targets"])
    for one in panel["targets"]:
        assert one["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
        if panel["type"] != "table":
            assert one["legendFormat"]
            assert '"$instance"' in one["expr"]


def test_every_variable_that_a_query_names_can_be_chosen() -> None:
    """And every one that can be chosen is named by a query."""
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    named = {
        name
        for _, query in queries()
        for name in re.findall(r"\$(\w+)", query)
        if not name.startswith("__")
    }
    assert named == set(variables) - {"datasource"} == {"instance", "model", "node"}
    assert variables["datasource"]["query"] == "prometheus"
    for name in named:
        assert variables[name]["allValue"] == ".*"
        assert metrics_of(variables[name]["definition"]) <= set(told_metrics())


@pytest.mark.parametrize(
    "expression", [query for _, query in queries()] + [rule["expr"] for rule in RULES]
)
def test_every_metric_that_is_asked_for_is_explained(expression: str) -> None:
    """Of panels, annotations and alerts: docs/metrics.md has it, and it is rated only if it counts."""
    told = told_metrics()
    assert metrics_of(expression)
    assert metrics_of(expression) - OF_PROMETHEUS <= set(told)
    for name in re.findall(r"\b(?:rate|increase|changes)\(([a-z_:]+)", expression):
        assert told[name] == "counter"


def test_nothing_that_dure_tells_of_itself_is_left_out() -> None:
    """Each metric of dure's own is in a panel or an alert, but those that have a reason here."""
    asked = {name for _, query in queries() for name in metrics_of(query)}
    asked |= {name for rule in RULES for name in metrics_of(rule["expr"])}
    known = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} | asked
    left = {name for name in told_metrics() if name.startswith("dure_")} - known
    left = {name for name in left if not re.search(r"_seconds_(bucket|sum|count)$", name)}
    assert left == {
        "dure_model_info",  # words
        "dure_prompt_seconds_total",  # of answers that have ended: rates of it jump
        "dure_generate_seconds_total",
        "dure_sequences_held",  # for whoever looks for a leak
        "dure_key_requests_running",
        "dure_key_weight",  # settings
        "dure_key_priority",
        "dure_http_request_seconds",  # a stream's is its answer's
        "dure_ignored_fields_total",
    }


@pytest.mark.parametrize(
    "file", sorted(MONITORING.rglob("*.y*ml")), ids=lambda file: str(file.relative_to(MONITORING))
)
def test_every_file_is_yaml(file: Path) -> None:
    """And says something."""
    assert yaml.safe_load(file.read_text())


def test_what_compose_mounts_and_names_is_there() -> None:
    """Folders and files of this repository, pinned images, and nothing that listens beyond this machine."""
    services = yaml.safe_load((MONITORING / "compose.yaml").read_text())["services"]
    inside: dict[str, Path] = {}
    for name, service in services.items():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        assert "ports" not in service
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (MONITORING / source).is_dir()
            if volume.split(":")[1] == "/etc/dure":
                inside[name] = MONITORING / source
    command = services["prometheus"]["command"]
    assert "--web.listen-address=127.0.0.1:9090" in command
    config = next(one.partition("=")[2] for one in command if "config.file" in one)
    assert (inside["prometheus"] / Path(config).relative_to("/etc/dure")).is_file()
    environment = services["grafana"]["environment"]
    assert environment["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    for variable in (
        "GF_PATHS_PROVISIONING",
        "DURE_DASHBOARDS",
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH",
    ):
        assert (inside["grafana"] / Path(environment[variable]).relative_to("/etc/dure")).exists()


def test_grafana_is_told_of_the_prometheus_that_compose_starts() -> None:
    """The same port, and the folder of the dashboard by a variable that compose sets."""
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/dure.yaml").read_text())["datasources"]
    assert source["url"] == "http://127.0.0.1:9090"
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((provisioning / "dashboards/dure.yaml").read_text())["providers"]
    assert provider["options"]["path"] == "${DURE_DASHBOARDS}"


# Prometheus


@needs_prometheus
@pytest.mark.parametrize("what", [("config", "prometheus.yml"), ("rules", "alerts.yml")])
def test_prometheus_own_check_finds_nothing(what: tuple[str, str]) -> None:
    """`promtool check` reads every file that is named, and every expression and template."""
    done = subprocess.run(
        ["promtool", "check", what[0], MONITORING / what[1]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(RULES)} rules found" in done.stdout


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_cures_it(rule: dict[str, Any]) -> None:
    """A line for a phone that names whom it is about, and a description with a cure."""
    assert rule["alert"].startswith("Dure")
    assert rule["labels"]["severity"] in {"warning", "critical"}
    summary, description = (rule["annotations"][name] for name in ("summary", "description"))
    assert "{{ $labels." in summary
    assert not summary.endswith(".")
    assert description.endswith(".")
    assert "{{" not in description
    shown = {panel["title"] for panel in panels()}
    assert set(re.findall(r'"([^"]+)"', description)) <= shown
    assert CURES.search(description)


def test_the_page_explains_every_row_and_every_alert() -> None:
    """docs/monitoring.md: a row of its tables for each."""
    page = (DOCS / "monitoring.md").read_text()
    titles = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    assert [row for row in rows if row in titles] == titles
    for rule in RULES:
        assert any(f"`{rule['alert']}`" in row for row in rows)
    for panel in re.findall(r"\*([A-Z][^*\n]*[^*:\n])\*", page.partition("## Why is it slow?")[2]):
        assert panel in {one["title"] for one in DASHBOARD["panels"]}
