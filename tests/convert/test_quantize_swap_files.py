"""To swap a group of tensors, that group alone is written; llama.cpp loads the model with the swap."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from dure.convert.quantize.choosing import group_of
from dure.convert.quantize.encoding import Encoder
from dure.convert.quantize.swap_files import SwapFiles, scratch_folder
from dure.convert.quantize.writing import Quantized, write_quantized
from dure.engine.executor import Batch
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.errors import ModelError
from dure.model.ggml import type_named
from dure.model.gguf import GgufFile, open_gguf
from tests.support.quantizing import small_model, tensor_bytes

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
GROUP = "ffn_up 1/3"


def groups_of(model: GgufFile) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, tensor in model.tensors.items():
        if len(tensor.shape) > 1 and tensor.shape[0] % 256 == 0:
            groups.setdefault(group_of(name, 2), []).append(name)
    return groups


def files_of(model: GgufFile, directory: Path) -> SwapFiles:
    directory.mkdir(exist_ok=True)
    return SwapFiles(model, Encoder(model, None, 1), groups_of(model), directory)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[GgufFile]:
    with open_gguf(small_model(tmp_path / "m.gguf")) as model:
        yield model


def contents(path: Path) -> dict[str, tuple[str, bytes]]:
    with open_gguf(path) as model:
        return {
            name: (tensor.type.name, bytes(model.read(tensor, 0, tensor.size_bytes)))
            for name, tensor in model.tensors.items()
        }


def test_a_swap_writes_the_files_of_its_group_alone(model: GgufFile, tmp_path: Path) -> None:
    """All other tensors are the original's, byte for byte; afterwards this group's are, too."""
    files = files_of(model, tmp_path / "swaps")
    q3 = type_named("Q3_K")
    names = groups_of(model)[GROUP]
    with files.swapped("output", dict.fromkeys(groups_of(model)["output"], q3)):
        pass
    written = {path: path.stat().st_ino for path in (tmp_path / "swaps").iterdir()}
    with files.swapped(GROUP, dict.fromkeys(names, q3)) as path:
        found = contents(path)
        new = [p for p in (tmp_path / "swaps").glob("*.gguf") if p.stat().st_ino != written[p]]
    assert len(new) == 1
    original = tensor_bytes(model.paths[0])
    assert {name for name in original if found[name] != original[name]} == set(names)
    assert {found[name][0] for name in names} == {"Q3_K"}
    assert contents(path) == original
    assert {path: path.stat().st_ino for path in (tmp_path / "swaps").iterdir()} == written


def test_a_swap_that_fails_leaves_the_model_as_it_was(model: GgufFile, tmp_path: Path) -> None:
    """IQ1_S cannot be made without an importance matrix: it is told, and nothing half-written is left."""
    files = files_of(model, tmp_path / "swaps")
    bad = dict.fromkeys(groups_of(model)[GROUP], type_named("IQ1_S"))
    with pytest.raises(ModelError, match="importance matrix"), files.swapped(GROUP, bad):
        pass
    first = min((tmp_path / "swaps").glob("*.gguf"))
    assert contents(first) == tensor_bytes(model.paths[0])
    assert len(list((tmp_path / "swaps").iterdir())) == len(groups_of(model)) + 1


def logits(path: Path) -> list[float]:
    executor = LocalExecutor(path, Limits(n_ctx=64, threads=1, n_batch=64, n_outputs=32))
    try:
        n = 16
        tokens, zeros = np.arange(3, 3 + n, dtype=np.int32), np.zeros(n, np.int32)
        executor.step(Batch(tokens, np.arange(n, dtype=np.int32), zeros, [n - 1]))
        return [float(x) for x in executor.logits(0)]
    finally:
        executor.close()


def test_what_is_run_is_the_model_with_that_group_swapped(tmp_path: Path) -> None:
    """Of a quantized model too: the same logits, to the bit, as of one whole file with these types."""
    with open_gguf(DEMO) as model:
        files = files_of(model, tmp_path / "swaps")
        types = dict.fromkeys(groups_of(model)[GROUP], type_named("Q3_K"))
        whole = tmp_path / "whole.gguf"
        write_quantized(Quantized(model, types, None, 0, {}), whole, None, 1)
        with files.swapped(GROUP, types) as path:
            assert logits(path) == logits(whole) != logits(DEMO)


def hold(parent: Path, made: Event) -> None:
    with scratch_folder(parent, "swaps-") as folder:
        (folder / "large").write_text("weights")
        made.set()
        multiprocessing.Event().wait()


def test_what_a_killed_process_left_is_deleted_by_the_next(tmp_path: Path) -> None:
    """But not while its process runs."""
    context = multiprocessing.get_context("spawn")
    made = context.Event()
    process = context.Process(target=hold, args=(tmp_path, made))
    process.start()
    try:
        assert made.wait(60)
        with scratch_folder(tmp_path, "swaps-"):
            assert len(list(tmp_path.glob("swaps-*"))) == 2
    finally:
        process.kill()
        process.join()
    with scratch_folder(tmp_path, "swaps-") as folder:
        assert list(tmp_path.glob("swaps-*")) == [folder]
    assert list(tmp_path.glob("swaps-*")) == []
