"""Layers on a GPU compute what the processor computes: where llama.cpp was built for one, and there is one.

Mesa's software driver will do: GGML_VK_VISIBLE_DEVICES=0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dure.deploy.options import AdapterFile, RunOptions
from dure.deploy.start import start_model
from dure.engine.arrays import Floats
from dure.engine.compute.gpu import devices_of, gpu_backends, gpus
from dure.engine.executor import Batch, Executor
from dure.engine.kv import Copy, Forget
from dure.errors import ResourceError
from dure.model.gguf import open_gguf
from tests.support.adapters import write_adapter
from tests.support.cut_models import relative_error, step

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
TOKENS = list(range(100, 148))
HALF = 24
MOST_ERROR = 0.03  # float16 sums there, 8-bit activations here

on_gpu = pytest.mark.skipif(not gpus(), reason="llama.cpp sees no GPU here")


def embedded(executor: Executor) -> Floats:
    batch = Batch(
        np.array(TOKENS[:HALF], np.int32),
        np.arange(HALF, dtype=np.int32),
        np.zeros(HALF, np.int32),
        [HALF - 1],
        kv=[Forget(0, 0)],
        embed=True,
    )
    found = executor.step(batch).embeddings
    assert found is not None
    return np.array(found[0])


def computed(n_layers: int, folder: Path, adapters: tuple[AdapterFile, ...]) -> list[Floats]:
    """Compute a prompt, its copy that goes on, what is saved and read back, and a hidden state."""
    options = RunOptions(threads=1, ctx=256, n_sequences=3, gpu_layers=n_layers, lora=adapters)
    with open_gguf(DEMO) as model:
        deployment = start_model(model, options)
    executor = deployment.executor
    try:
        assert (deployment.gpu.n if deployment.gpu else 0) == n_layers
        found = [step(executor, TOKENS[:HALF], 0)]
        found.append(step(executor, TOKENS[HALF:], HALF, sequence=1, kv=[Copy(0, 1, HALF)]))
        executor.save(1, str(folder / "saved"))
        assert executor.load(2, str(folder / "saved"), len(TOKENS))
        found.append(step(executor, TOKENS[:1], len(TOKENS), sequence=2))
        return [*found, embedded(executor)]
    finally:
        executor.close()


@on_gpu
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("part", [0.5, 1.0])
def test_layers_on_a_gpu_give_the_processors_numbers(
    part: float, adapted: bool, tmp_path: Path
) -> None:
    """Some layers there, and all; with an adapter, and without."""
    adapters: tuple[AdapterFile, ...] = ()
    if adapted:
        adapters = (AdapterFile(str(write_adapter(DEMO, tmp_path / "a.gguf", strength=0.2))),)
    with open_gguf(DEMO) as model:
        n_all = model.int(f"{model.architecture}.block_count", 0)
    expected = computed(0, tmp_path, adapters)
    there = computed(int(n_all * part), tmp_path, adapters)
    errors = [relative_error(one, other) for one, other in zip(there, expected, strict=True)]
    assert max(errors) < MOST_ERROR, errors


def test_a_model_without_layers_on_a_gpu_gets_no_devices() -> None:
    """An empty list; and a GPU is seen only where llama.cpp was built for one."""
    assert list(devices_of("")) == [None]
    assert bool(gpu_backends()) >= bool(gpus())


def test_a_device_that_is_not_there_is_named() -> None:
    """A rank would otherwise compute all of it on its processor, and nobody knew."""
    with pytest.raises(ResourceError, match=r"llama\.cpp sees no GPU CUDA7 on .* any more"):
        devices_of("CUDA7")
