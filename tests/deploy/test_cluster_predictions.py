"""What a run on a cluster shows corrects what is planned for the cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster_hosts import joined, machines

from tests.support.needs_root import needs_root

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"


@needs_root
def test_a_bench_corrects_the_plan_of_its_cluster(tmp_path: Path) -> None:
    """Afterwards the plan has the measured speeds, and says that they were measured.

    A machine whose speed is in doubt is measured again by the next start; then the run counts no longer.
    """
    with machines(tmp_path, 2) as hosts:
        joined(*hosts)
        root, bench = hosts[0], ("-p", 32, "-n", 32, "--repeat", 1, "--json")
        plan = ("plan", DEMO, "--cluster", "--ctx", 1024, "--json")
        assert json.loads(root.dure(*plan))["correction"] is None
        for _ in range(4):
            (row,) = json.loads(root.dure("bench", DEMO, "--cluster", *bench))["rows"]
            corrected = json.loads(root.dure(*plan))
            if corrected["correction"]:
                break
    assert corrected["basis"] == "measured here"
    ratio = row["predicted"]["generation"]["measured_beside_it"]
    assert corrected["correction"]["generation"] == pytest.approx(ratio)
