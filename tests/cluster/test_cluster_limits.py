"""A node whose agent is limited, as by its service or its container, tells the root so."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_hosts import Machine, joined, machines, processes_of

from tests.support.control_groups import real_group
from tests.support.needs_root import needs_root

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
SMALL_BYTES = 60_000_000


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[Machine]]:
    """A root and a node; the node's agent has half of a processor's time, and little memory."""
    with machines(tmp_path, 2) as hosts, real_group() as group:
        joined(*hosts)
        group.limit_cpus(0.5)
        group.limit_memory(SMALL_BYTES)
        (agent,) = processes_of(hosts[1])
        group.take(agent.pid)
        group.show_to(agent.pid)
        yield hosts
        hosts[1].stop()


@needs_root
def test_what_holds_a_node_is_shown_and_a_model_that_it_cannot_hold_is_refused(
    two: list[Machine],
) -> None:
    """`cluster status` has limits as data and as text, and the refusal names node and limit."""
    root, node = two
    (told,) = json.loads(root.dure("cluster", "status", "--json"))["nodes"]
    assert told["platform"]["cores"] == 1
    assert "a quota of 0.5 CPUs" in told["platform"]["cpu_limit"]
    assert told["health"]["available_bytes"] <= SMALL_BYTES
    refused = root.dure("run", DEMO, "hi", "--cluster", "--shares", "1,1", status=1)
    assert f"{node.name}: a context of" in refused
    assert "free within a limit of 60.0 MB (memory." in refused
    assert f"{node.name} is held to a quota of 0.5 CPUs" in _shown_by(root)


def _shown_by(root: Machine) -> str:
    """What `cluster status` says beside its table."""
    done = subprocess.run(
        root.command("cluster", "status"),
        env=root.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr
