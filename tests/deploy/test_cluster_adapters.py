"""An adapter on a cluster of network namespaces: each machine gets its part, while the ranks run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cluster_hosts import joined, machines, ranks_of

from tests.support.adapters import write_adapter
from tests.support.cluster_serving import DEMO, STORY, wait_until
from tests.support.needs_root import needs_root

PROGRAM = """
import sys
import dure
model, adapter, cluster = sys.argv[1], sys.argv[2], sys.argv[3] == "cluster"
nodes = {"cluster": True, "nodes": "all"} if cluster else {}
how = {"temperature": 0, "max_tokens": 60}
with dure.open(model, sync="f32", threads=1, lora=[f"{adapter}:0.5"], **nodes) as model:
    print(model.n_ranks)
    number = model.load_adapter(adapter)
    for lora in ({}, {0: 1.0}, {number: 1.0}, {0: 0.25, number: 0.75}, None):
        print(repr(model.chat(sys.argv[4], lora=lora, **how).text))
"""


@needs_root
def test_every_machine_gets_its_part_of_an_adapter(tmp_path: Path) -> None:
    """With the model and while it runs: three machines write what one writes."""
    adapter = write_adapter(DEMO, tmp_path / "style.gguf", rank=4, strength=3)
    command = [sys.executable, "-c", PROGRAM, str(DEMO), str(adapter)]
    alone = subprocess.run(
        [*command, "here", STORY], capture_output=True, text=True, check=True, timeout=300
    )
    with machines(tmp_path, 3) as hosts:
        joined(*hosts)
        root = hosts[0]
        done = subprocess.run(
            root.host.command([*command, "cluster", STORY]),
            env=root.environment,
            capture_output=True,
            text=True,
            timeout=root.wait_s,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        wait_until(lambda: not any(map(ranks_of, hosts)))
    texts = alone.stdout.splitlines()[1:]
    assert done.stdout.splitlines() == ["3", *texts]
    assert texts[0] != texts[1] == texts[2] == texts[3] != texts[4]
