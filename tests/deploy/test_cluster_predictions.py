"""What a run on a cluster shows corrects what is planned for the cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster_hosts import joined, machines

from tests.support.cluster_serving import ALL
from tests.support.needs_root import needs_root

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"


@needs_root
def test_a_bench_corrects_the_plan_of_its_cluster(tmp_path: Path) -> None:
    """Afterwards the plan has the measured speeds, and says that they were measured."""
    with machines(tmp_path, 2) as hosts:
        joined(*hosts)
        root, bench = hosts[0], ("-p", 32, "-n", 32, "--repeat", 1, "--json")
        planned = json.loads(root.dure("plan", DEMO, "--cluster", "--ctx", 1024, "--json"))
        (row,) = json.loads(root.dure("bench", DEMO, *bench, *ALL))["rows"]
        corrected = json.loads(root.dure("plan", DEMO, "--cluster", "--ctx", 1024, "--json"))
    assert planned["correction"] is None
    assert corrected["basis"] == "measured here"
    ratio = row["predicted"]["generation"]["measured_beside_it"]
    assert corrected["correction"]["generation"] == pytest.approx(ratio)
    faster = corrected["generation"]["tokens_per_s"] / planned["generation"]["tokens_per_s"]
    assert faster == pytest.approx(ratio)
