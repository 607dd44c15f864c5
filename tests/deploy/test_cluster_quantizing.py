"""A model is made smaller for a cluster: its machines' cut decides which types it may have."""

from __future__ import annotations

import json
from pathlib import Path

from cluster_hosts import joined, machines

from tests.support.cluster_serving import ALL
from tests.support.needs_root import needs_root
from tests.support.quantizing import MIXTURE, small_model


@needs_root
def test_a_size_alone_gets_types_that_the_cluster_can_cut(tmp_path: Path) -> None:
    """Experts of 256 columns are one block of Q4_K, which two machines cannot share."""
    model = small_model(tmp_path / "m.gguf", MIXTURE)
    options = ("--types", "Q4_0,Q4_K", "--target-bpw", 5, "--even", "--dry-run", "--json")
    with machines(tmp_path, 2) as hosts:
        joined(*hosts)
        told = json.loads(hosts[0].dure("quantize", model, *options, *ALL))
    types = told["types"]
    assert {kind for name, kind in types.items() if "ffn_down_exps" in name} == {"Q4_0"}
    assert "Q4_K" in types.values()
