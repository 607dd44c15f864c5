"""Ranks whose layers lie on a GPU, and ranks beside them that have none, sum to what processors compute.

Where llama.cpp was built for a GPU, and there is one. Mesa's software driver will do, as one without 16-bit
floats: GGML_VK_VISIBLE_DEVICES=0 GGML_VK_DISABLE_F16=1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from dure.deploy.options import AdapterFile, RunOptions
from dure.deploy.start import start_model
from dure.engine.arrays import Floats
from dure.engine.compute.gpu import gpus
from dure.engine.executor import Batch, Executor, FullExecutor
from dure.engine.kv import Clear, Copy
from dure.engine.limits import Limits, OffloadedLayers
from dure.engine.wire import Wire
from dure.model.gguf import open_gguf
from tests.support.adapters import write_adapter
from tests.support.cut_models import cut_executor, relative_error, step
from tests.support.random_models import SHAPES, write_random_model

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
LIMITS = Limits(n_ctx=256, threads=1, n_sequences=3)
TOKENS = [int(n) for n in np.random.default_rng(3).integers(0, 1000, 64)]
LONG = 48  # tokens of a prompt: of more than 32 a GPU computes layers that lie in the machine's memory, too
MOST_ERROR = 0.03  # float16 sums there, 8-bit activations here

pytestmark = pytest.mark.skipif(not gpus(), reason="llama.cpp sees no GPU here")


def together(executor: Executor) -> Iterator[Floats]:
    """Give two sequences a token each, in one step."""
    batch = Batch(
        np.array(TOKENS[60:62], np.int32),
        np.array([LONG + 1, LONG + 1], np.int32),
        np.array([0, 1], np.int32),
        [0, 1],
        top_k=1,
    )
    executor.step(batch)
    yield from (np.array(executor.logits(row)) for row in range(2))


def computed(executor: FullExecutor, saved: Path) -> list[Floats]:
    """Compute a prompt, tokens, a copied sequence, two at once, and one that was saved and read back."""
    found = [step(executor, TOKENS[:LONG], 0, kv=[Clear()]), step(executor, TOKENS[LONG:49], LONG)]
    found.append(step(executor, TOKENS[50:51], LONG, sequence=1, kv=[Copy(0, 1, LONG)]))
    found += together(executor)
    executor.save(1, str(saved))
    assert executor.load(2, str(saved), LONG + 2)
    return [*found, step(executor, TOKENS[:1], LONG + 2, sequence=2)]


def on_ranks(path: Path, folder: Path, layers: Sequence[int]) -> list[Floats]:
    """Compute on ranks of which each has so many layers on the GPU, and the output with them."""
    device = gpus()[0].name
    there = [OffloadedLayers(device, n + 1) if n else OffloadedLayers() for n in layers]
    shares, wire = [1.0] * len(layers), Wire.F32
    with cut_executor(path, shares, folder, wire=wire, limits=LIMITS, gpus=there) as executor:
        return computed(executor, folder / "saved")


@pytest.mark.parametrize("shape", ["qwen3", "qwen3moe", "gemma3", "gpt-oss"])
def test_ranks_with_layers_on_a_gpu_and_without_sum_to_the_same(shape: str, tmp_path: Path) -> None:
    """All layers of one rank, of another, of both, and a part; two ranks and three."""
    path, n = tmp_path / "model.gguf", SHAPES[shape].n_layer
    write_random_model(path, SHAPES[shape], "F16")
    for placed in ([n, 0], [0, n], [n, n], [n // 2, 0], [n, n // 2, 0]):
        expected = on_ranks(path, tmp_path, [0] * len(placed))
        there = on_ranks(path, tmp_path, placed)
        errors = [relative_error(one, other) for one, other in zip(there, expected, strict=True)]
        assert max(errors) < MOST_ERROR, (placed, errors)


def started(n_layers: int | None, folder: Path, adapter: AdapterFile) -> list[Floats]:
    """Start the demo model on two ranks with an adapter, and compute."""
    options = RunOptions(
        ranks=2, threads=1, ctx=256, n_sequences=3, gpu_layers=n_layers, lora=(adapter,)
    )
    with open_gguf(DEMO) as model:
        deployment = start_model(model, options)
    try:
        placed = [gpu.n if gpu else 0 for gpu in deployment.gpus]
        most = deployment.gpus[0].n_all if deployment.gpus[0] else 0
        assert placed == [most if n_layers is None else n_layers] * 2
        return computed(deployment.executor, folder / "saved")
    finally:
        deployment.executor.close()


def test_a_start_on_ranks_of_one_machine_places_layers_and_adapters(tmp_path: Path) -> None:
    """As many as fit, and a number; with an adapter, whose terms are summed with the product's."""
    adapter = AdapterFile(str(write_adapter(DEMO, tmp_path / "a.gguf", strength=0.2)))
    expected = started(0, tmp_path, adapter)
    for n_layers in (None, 2):
        there = started(n_layers, tmp_path, adapter)
        errors = [relative_error(one, other) for one, other in zip(there, expected, strict=True)]
        assert max(errors) < MOST_ERROR, (n_layers, errors)
