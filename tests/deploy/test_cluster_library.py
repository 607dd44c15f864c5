"""A program opens a model on a cluster of network namespaces: the same text, and no rank is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cluster_hosts import joined, machines, ranks_of

from tests.support.cluster_serving import DEMO, STORY, told_alone, wait_until
from tests.support.needs_root import needs_root

PROGRAM = f"""
import dure
with dure.open({str(DEMO)!r}, cluster=True, nodes="all", sync="f32", threads=1) as model:
    print(model.n_ranks)
    print(model.chat({STORY!r}, temperature=0, max_tokens=150).text)
    print(model.logits("Once upon a time").shape)
"""


@needs_root
def test_a_program_runs_a_model_on_the_cluster(tmp_path: Path) -> None:
    """It writes what one machine writes; with the block the ranks end, and the machines are free."""
    with machines(tmp_path, 3) as hosts:
        joined(*hosts)
        root = hosts[0]
        done = subprocess.run(
            root.host.command([sys.executable, "-c", PROGRAM]),
            env=root.environment,
            capture_output=True,
            text=True,
            timeout=root.wait_s,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        n_ranks, *text, shape = done.stdout.strip().splitlines()
        assert (n_ranks, "\n".join(text), shape) == ("3", told_alone(), "(4, 2048)")
        wait_until(lambda: not any(map(ranks_of, hosts)))
        assert root.dure("cluster", "status").count("dure.open") == 0
