"""What the ranks of a start take beside the model and its context: adapters, and sums of inputs.

Knows options and files. Refuses to know machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dure.deploy.adapters import adapter_bytes
from dure.deploy.options import RunOptions
from dure.model.cut import CutPlan
from dure.model.gguf import GgufFile
from dure.plan.memory import RankMemory, many_outputs

__all__ = ["with_options"]

_SUM_BYTES = 4
_SUMS_BESIDE = 3  # of the whole model, where the command runs: as they came, before, and added


def with_options(
    ranks: Sequence[RankMemory], model: GgufFile, options: RunOptions, cut: CutPlan | None = None
) -> list[RankMemory]:
    """Return what each rank takes with the options of a start. cut: over the ranks; None: there is one.

    Raises as `adapter_bytes` does.
    """
    added = adapter_bytes(model, options, cut)
    found = [rank.with_other(n_bytes) for rank, n_bytes in zip(ranks, added, strict=True)]
    if not options.gathers_inputs:
        return found
    n_vocab = cut.shape.n_vocab if cut else ranks[0].n_vocab
    n_outputs = many_outputs(n_vocab) if n_vocab else ranks[0].least_outputs
    sums = _sums_bytes(model)
    beside = [_SUMS_BESIDE * sums] + [0] * (len(found) - 1)
    return [
        replace(rank.with_other(sums + n_bytes), least_outputs=n_outputs)
        for rank, n_bytes in zip(found, beside, strict=True)
    ]


def _sums_bytes(model: GgufFile) -> int:
    """Return the bytes of a sum for each column of each matrix in layers."""
    return sum(
        _SUM_BYTES * tensor.n_elements // tensor.shape[1]
        for name, tensor in model.tensors.items()
        if name.startswith("blk.") and len(tensor.shape) > 1
    )
