"""When each alert comes, and when not: `promtool test rules` with made-up series, minute by minute."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.monitoring import MONITORING, RULES, needs_prometheus

pytestmark = needs_prometheus

BY_NAME = {rule["alert"]: rule for rule in RULES}
SERVER = 'instance="pi:8080", job="dure"'
MODEL = f'{SERVER}, model="m"'
NODE = f'{SERVER}, node="pi-3"'
POD = f'{SERVER}, pod="qwen", gpu="4090"'
RANKS = {f'dure_rank_info{{{MODEL}, rank="{rank}", node="pi-{rank}"}}': "1x30" for rank in range(3)}
STEPS = {f"dure_step_seconds_total{{{MODEL}}}": "0+50x30"}


def ranks(metric: str, *rates: float) -> dict[str, str]:
    """The series of a counter of each rank, by how much it grows in a minute."""
    return {
        f'{metric}{{{MODEL}, rank="{rank}"}}': f"0+{rate}x30" for rank, rate in enumerate(rates)
    }


def histogram(metric: str, **buckets: int) -> dict[str, str]:
    """A histogram's series: `s30=2` grows by 2 a minute up to 30 s."""
    return {
        f'{metric}_bucket{{{MODEL}, le="{name.removeprefix("s").replace("inf", "+Inf")}"}}': f"0+{n}x30"
        for name, n in buckets.items()
    }


@dataclass
class Case:
    """One alert. bad, good: series, with and without what it is about. summary: what a person reads.

    labels: beside the server's. at: minutes until it has come.
    """

    alert: str
    bad: Mapping[str, str]
    good: Mapping[str, str]
    summary: str
    labels: Mapping[str, str]
    at: int = 20


OF_MODEL = {"model": "m"}
OF_RANK = {"model": "m", "rank": "2", "node": "pi-2"}
OF_NODE = {"node": "pi-3"}
OF_POD = {"pod": "qwen", "gpu": "4090"}

CASES = (
    Case(
        "DureServerUnreachable",
        {f"up{{{SERVER}}}": "1x5 0x30"},
        {f"up{{{SERVER}}}": "1x30"},
        "pi:8080 cannot be scraped",
        {},
    ),
    Case(
        "DureEngineDown",
        {f"dure_up{{{MODEL}}}": "1x5 0x30"},
        {f"dure_up{{{MODEL}}}": "1x15 0x3 1x30"},  # a model is loaded in three minutes
        "m on pi:8080 answers nobody",
        OF_MODEL,
    ),
    Case(
        "DureEngineRestarts",
        {f"dure_engine_restarts_total{{{MODEL}}}": "0x5 1x5 2x30"},
        {f"dure_engine_restarts_total{{{MODEL}}}": "0x5 1x30"},
        "the engine of m on pi:8080 was started again more than once",
        OF_MODEL,
    ),
    Case(
        "DureAnswersFail",
        {
            f'dure_answers_total{{{MODEL}, reason="error"}}': "0+1x30",
            f'dure_answers_total{{{MODEL}, reason="stop"}}': "0+9x30",
        },
        {
            f'dure_answers_total{{{MODEL}, reason="error"}}': "0+1x30",
            f'dure_answers_total{{{MODEL}, reason="stop"}}': "0+99x30",
        },
        "10% of the answers of m on pi:8080 fail",
        OF_MODEL,
    ),
    Case(
        "DureRequestsFail",
        {
            f'dure_http_requests_total{{{SERVER}, status="503"}}': "0+1x30",
            f'dure_http_requests_total{{{SERVER}, status="200"}}': "0+4x30",
        },
        {
            f'dure_http_requests_total{{{SERVER}, status="429"}}': "0+1x30",
            f'dure_http_requests_total{{{SERVER}, status="200"}}': "0+4x30",
        },
        "20% of the requests at pi:8080 get a 5xx",
        {},
    ),
    Case(
        "DureQueueLong",
        {f"dure_requests_waiting{{{MODEL}}}": "3x30"},
        {f"dure_requests_waiting{{{MODEL}}}": "3x4 0 3x4 0 3x4 0 3x4 0 3x4"},
        "3 requests wait for m on pi:8080",
        OF_MODEL,
    ),
    Case(
        "DureFirstTokenLate",
        histogram("dure_first_token_seconds", s20=0, s40=10, sinf=10),
        histogram("dure_first_token_seconds", s20=10, s40=10, sinf=10),
        "one in twenty answers of m on pi:8080 begins after 39s",
        OF_MODEL,
    ),
    Case(
        "DureNodeLost",
        {f"dure_node_up{{{NODE}}}": "1x5 0x30"},
        {f"dure_node_up{{{NODE}}}": "1x18 0 1x30"},
        "pi-3 does not answer pi:8080",
        OF_NODE,
    ),
    Case(
        "DureNodeThrottled",
        {f"dure_node_throttled{{{NODE}}}": "0x5 1x30"},
        {f"dure_node_throttled{{{NODE}}}": "0x30"},
        "pi-3 is throttled",
        OF_NODE,
    ),
    Case(
        "DureNodeHot",
        {f"dure_node_temperature_celsius{{{NODE}}}": "60+2x12 84x30"},
        {f"dure_node_temperature_celsius{{{NODE}}}": "79x30"},
        "pi-3 has 84 °C",
        OF_NODE,
    ),
    Case(
        "DureNodeMemoryLow",
        {f"dure_node_memory_available_bytes{{{NODE}}}": "104857600x30"},
        {f"dure_node_memory_available_bytes{{{NODE}}}": "1048576000x30"},
        "pi-3 has 100MiB of memory left",
        OF_NODE,
    ),
    Case(
        "DureDiskNearlyFull",
        {
            f"dure_node_disk_free_bytes{{{NODE}}}": "1073741824x30",
            f"dure_node_disk_bytes{{{NODE}}}": "64000000000x30",
        },
        {  # a tenth of a small card is enough
            f"dure_node_disk_free_bytes{{{NODE}}}": "1600000000x30",
            f"dure_node_disk_bytes{{{NODE}}}": "16000000000x30",
        },
        "pi-3 has 1GiB left on its disk",
        OF_NODE,
    ),
    Case(
        "DureLinkErrors",
        {f'dure_node_link_errors_total{{{NODE}, device="eth0"}}': "0+2x30"},
        {f'dure_node_link_errors_total{{{NODE}, device="eth0"}}': "9000x30"},
        "eth0 of pi-3 has 20 new errors and drops",
        {**OF_NODE, "device": "eth0"},
    ),
    Case(
        "DureRankSlow",
        {**RANKS, **ranks("dure_compute_seconds_total", 20, 20, 50)},
        {**RANKS, **ranks("dure_compute_seconds_total", 20, 20, 25)},
        "the other ranks of m wait for rank 2 on pi-2",
        OF_RANK,
    ),
    Case(
        "DureOtherPrograms",
        {**RANKS, **STEPS, **ranks("dure_lost_thread_seconds_total", 0, 1, 30)},
        {**RANKS, **STEPS, **ranks("dure_lost_thread_seconds_total", 0, 1, 5)},
        "other programs take processor time from rank 2 of m on pi-2",
        OF_RANK,
    ),
    Case(
        "DurePodUnwatched",
        {
            f"dure_pod_running{{{POD}}}": "1x30",
            f"dure_pod_seen_timestamp_seconds{{{POD}}}": "60x30",
        },
        {
            f"dure_pod_running{{{POD}}}": "1x30",
            f"dure_pod_seen_timestamp_seconds{{{POD}}}": "0+60x30",
        },
        "nobody has looked at the pod qwen for ten minutes",
        OF_POD,
    ),
    Case(
        "DurePodSpend",
        {f"dure_pod_spent_usd{{{POD}}}": "9x30", f"dure_pod_limit_usd{{{POD}}}": "10x30"},
        {f"dure_pod_spent_usd{{{POD}}}": "7x30", f"dure_pod_limit_usd{{{POD}}}": "10x30"},
        "the pod qwen has cost $9.00, more than 80 % of its limit",
        OF_POD,
    ),
    Case(
        "DureUpstreamDown",
        {
            f'dure_route_up{{{SERVER}, target="board"}}': "0x30",
            f'dure_route_asleep{{{SERVER}, target="board"}}': "0x30",
        },
        {
            f'dure_route_up{{{SERVER}, target="board"}}': "0x30",
            f'dure_route_asleep{{{SERVER}, target="board"}}': "1x30",
        },
        "the router's upstream board takes no requests",
        {"target": "board"},
    ),
    Case(
        "DureSpendNearLimit",
        {
            f'dure_route_spent_usd{{{SERVER}, target="pod"}}': "0+0.1x18 1.8x30",
            f'dure_route_limit_usd{{{SERVER}, target="pod"}}': "2x30",
        },
        {
            f'dure_route_spent_usd{{{SERVER}, target="pod"}}': "1.5x30",
            f'dure_route_limit_usd{{{SERVER}, target="pod"}}': "2x30",
        },
        "pod has cost $1.80 today, more than 80 % of its limit",
        {"target": "pod"},
    ),
    Case(
        "DureSpendHigh",
        {
            f'dure_route_spent_usd{{{SERVER}, target="pod"}}': "2.5x30",
            f'dure_route_spent_usd{{{SERVER}, target="cloud"}}': "3x30",
        },
        {f'dure_route_spent_usd{{{SERVER}, target="pod"}}': "2.5x30"},
        "answers have cost $5.50 today at pi:8080",
        {},
    ),
)


def alerts_of(case: Case, series: Mapping[str, str], expected: Sequence[Any], tmp: Path) -> None:
    """Have promtool compare what this alert says at its time."""
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": f"{case.at}m", "alertname": case.alert, "exp_alerts": expected}
        ],
    }
    content = {"rule_files": [str(MONITORING / "alerts.yml")], "tests": [test]}
    content["evaluation_interval"] = "1m"
    (tmp / "tests.yml").write_text(json.dumps(content))
    done = subprocess.run(
        ["promtool", "test", "rules", tmp / "tests.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    """None was added without one."""
    assert [case.alert for case in CASES] == [rule["alert"] for rule in RULES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_comes_and_names_whom_it_is_about(case: Case, tmp_path: Path) -> None:
    """With its labels, its summary as a person reads it, and the description with the cure."""
    rule = BY_NAME[case.alert]
    summed = "sum by (instance" in rule["expr"] or "le) (" in rule["expr"]
    labels = {"instance": "pi:8080", **case.labels, **rule["labels"]}
    if not summed:
        labels["job"] = "dure"
    told = {"summary": case.summary, "description": rule["annotations"]["description"]}
    expected = [{"exp_labels": labels, "exp_annotations": told}]
    alerts_of(case, case.bad, expected, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_stays_away_from_what_is_all_right(case: Case, tmp_path: Path) -> None:
    """Near to what it is about, but not it."""
    alerts_of(case, case.good, [], tmp_path)


def test_the_limit_of_all_upstreams_is_compared_with_their_sum(tmp_path: Path) -> None:
    """Each is below its own limit, or has none."""
    case = Case("DureSpendNearLimit", {}, {}, "", {})
    series = {
        f'dure_route_spent_usd{{{SERVER}, target="pod"}}': "1x30",
        f'dure_route_spent_usd{{{SERVER}, target="cloud"}}': "1x30",
        f'dure_route_limit_usd{{{SERVER}, target="(all)"}}': "2x30",
    }
    rule = BY_NAME[case.alert]
    told = {
        "summary": "(all) has cost $2.00 today, more than 80 % of its limit",
        "description": rule["annotations"]["description"],
    }
    labels = {"instance": "pi:8080", "target": "(all)", "severity": "warning"}
    alerts_of(case, series, [{"exp_labels": labels, "exp_annotations": told}], tmp_path)
