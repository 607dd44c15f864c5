"""What a run on a cluster shows corrects what is planned for the cluster."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cluster_hosts import Machine, joined, machines

from dure.hardware.probe import platform
from dure.plan.measurements import read_measurement
from tests.support.needs_root import needs_root

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"


@needs_root
def test_a_bench_corrects_the_plan_of_its_cluster(tmp_path: Path) -> None:
    """Afterwards the plan has the measured speeds, and says that they were measured.

    A machine whose speed is in doubt is measured again by the next start; then the run counts no longer.
    What may be shared of a run on all of its machines has the kinds of them, and names none.
    """
    record = tmp_path / "record.toml"
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
        share = ("--nodes", "all", "--share", record, "--yes")
        (on_all,) = json.loads(root.dure("bench", DEMO, "--cluster", *bench, *share))["rows"]
    assert corrected["basis"] == "measured here"
    ratio = row["predicted"]["generation"]["measured_beside_it"]
    assert corrected["correction"]["generation"] == pytest.approx(ratio)
    check_record(record.read_text(), hosts, on_all)


def check_record(text: str, hosts: Sequence[Machine], row: dict[str, Any]) -> None:
    """Check that what may be shared has each machine's kind and the link, and names none of them."""
    names = [told for host in hosts for told in (host.name, host.host.address)]
    for told in (*names, socket.gethostname(), str(Path.home()), str(hosts[0].home), "home"):
        assert told not in text
    found = read_measurement(text, "record.toml")
    assert [one.processor for one in found.machines] == [processor()] * 2
    assert sum(one.share for one in found.machines) == pytest.approx(1, abs=1e-3)
    assert all("F16" in one.reads and one.layer_s for one in found.machines)
    assert found.link is not None
    assert found.link.round_trip_s < 1
    (run,) = found.runs
    for shared, name in ((run.prompt, "prompt"), (run.generation, "generation")):
        assert shared.per_s == pytest.approx(row[name]["tokens_per_s"]["median"], rel=1e-3)
        assert shared.predicted == pytest.approx(row["predicted"][name]["value"], rel=1e-3)


def processor() -> str:
    """Return this machine's processor, which its hosts have too."""
    return platform({}, lambda _: "").processor
