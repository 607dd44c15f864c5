"""Tensors in other types: the bytes of llama.cpp's quantizer, in any number of threads, kept on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dure.convert.importance import Importance, InputSquares
from dure.convert.quantize.encoding import Bytes, Encoder, importance_of
from dure.convert.quantize.kept_tensors import KeptTensors
from dure.convert.quantize.llama_types import (
    Mixture,
    file_types,
    llama_types,
    mixture_named,
    quantizable,
)
from dure.convert.quantize.writing import ImportanceFile, Quantized, write_quantized
from dure.errors import ModelError, UsageError
from dure.model.ggml import type_named
from dure.model.gguf import open_gguf
from tests.support.quantizing import (
    MIXTURE,
    SMALL,
    importance_for,
    llama_quantized,
    small_model,
    tensor_bytes,
)
from tests.support.random_models import Shape


@pytest.mark.parametrize(
    ("shape", "name", "is_weighed"),
    [
        (SMALL, "Q4_K_M", True),
        (SMALL, "Q2_K", False),
        (SMALL, "IQ3_XXS", True),
        (MIXTURE, "Q3_K_M", True),
        (MIXTURE, "IQ2_M", True),
    ],
    ids=str,
)
def test_a_mixture_has_the_bytes_of_llama_cpps_quantizer(
    tmp_path: Path, shape: Shape, name: str, is_weighed: bool
) -> None:
    """Every tensor, with and without importances, dense and of experts."""
    source = small_model(tmp_path / "source.gguf", shape)
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    with open_gguf(source) as model:
        importance = importance_for(model) if is_weighed else None
        file = ImportanceFile(Path("m.gguf"), importance, "0") if importance else None
        found = llama_types(model, Mixture(name), has_importances=is_weighed)
        types = write_quantized(Quantized(model, found.types, file, 0, {}), ours, None, 2)
    llama_quantized(source, theirs, file_types()[name], importance)
    assert tensor_bytes(ours) == tensor_bytes(theirs)
    assert types == {name: kind for name, (kind, _) in tensor_bytes(theirs).items()}


def test_rows_that_fit_no_block_of_256_fall_back_as_llama_cpp_does(tmp_path: Path) -> None:
    """Rows of 320 are no multiple of 256: each type falls back to what llama.cpp's table says."""
    odd = Shape("llama", 1, 320, 5, 5, 64, 320, 300)
    source = small_model(tmp_path / "source.gguf", odd)
    wanted = {
        "IQ4_XS": "IQ4_NL", "IQ3_S": "IQ4_NL", "Q2_K": "Q4_0", "Q3_K_S": "Q4_0",
        "Q4_K_S": "Q5_0", "Q5_K_S": "Q5_1", "Q6_K": "Q8_0",
    }  # fmt: skip
    with open_gguf(source) as model:
        for name, type_name in wanted.items():
            found = llama_types(model, Mixture(name, pure=True), has_importances=True)
            assert {one.name for one in found.types.values()} == {type_name}, name
            assert set(found.fell_back) == set(found.types), name
            assert set(found.fell_back.values()) == {
                name.removesuffix("_S") if name[0] == "Q" else name
            }


def test_norms_routers_and_biases_are_never_quantized(tmp_path: Path) -> None:
    source = small_model(tmp_path / "source.gguf", MIXTURE)
    with open_gguf(source) as model:
        names = quantizable(model)
        assert "blk.0.ffn_up_exps.weight" in names
        assert "token_embd.weight" in names
        kept = set(model.tensors) - names
        assert {name for name in kept if "norm" in name or "ffn_gate_inp" in name} == kept


def test_output_and_embedding_types_are_passed_on(tmp_path: Path) -> None:
    source = small_model(tmp_path / "source.gguf")
    with open_gguf(source) as model:
        wanted = Mixture("Q4_0", pure=True, output="Q8_0", embedding="Q5_0")
        types = llama_types(model, wanted, has_importances=False).types
    assert types["output.weight"].name == "Q8_0"
    assert types["token_embd.weight"].name == "Q5_0"
    assert types["blk.0.attn_q.weight"].name == "Q4_0"


def test_a_mixture_that_needs_importances_is_refused_without(tmp_path: Path) -> None:
    """Before anything is encoded: what the types are is known from the header."""
    source = small_model(tmp_path / "source.gguf", replace(SMALL, n_embd=256))
    match = r"IQ2_XXS has .*IQ2_XXS, which cannot be made without an importance matrix"
    with open_gguf(source) as model, pytest.raises(ModelError, match=match):
        llama_types(model, Mixture("IQ2_XXS"), has_importances=False)


def test_an_unknown_mixture_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match=r"--type Q9_X: use one of .*Q4_K_M"):
        mixture_named("Q9_X")


def test_the_number_of_threads_changes_no_byte(tmp_path: Path) -> None:
    source = small_model(tmp_path / "source.gguf", MIXTURE)
    with open_gguf(source) as model:
        importance = importance_for(model)
        tensor = model.tensors["blk.1.ffn_down_exps.weight"]
        one, four = (
            np.concatenate(list(Encoder(model, importance, n).chunks(tensor, type_named("Q3_K"))))
            for n in (1, 4)
        )
    assert one.tobytes() == four.tobytes()


def test_importances_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    source = small_model(tmp_path / "source.gguf")
    name = "blk.0.ffn_up.weight"
    wrong = Importance(
        {name: InputSquares(np.ones((1, 128), np.float32), np.ones(1, np.float32))}, [], 1, 1
    )
    match = r"128 numbers for blk\.0\.ffn_up\.weight"
    with open_gguf(source) as model, pytest.raises(ModelError, match=match):
        importance_of(wrong, model.tensors[name])


def test_a_type_that_needs_importances_is_refused_without(tmp_path: Path) -> None:
    source = small_model(tmp_path / "source.gguf")
    types = {"blk.0.ffn_up.weight": type_named("IQ2_XS")}
    target = tmp_path / "out.gguf"
    with (
        open_gguf(source) as model,
        pytest.raises(ModelError, match=r"blk\.0\.ffn_up\.weight: IQ2_XS cannot be made without"),
    ):
        write_quantized(Quantized(model, types, None, 0, {}), target, None, 1)
    assert list(tmp_path.iterdir()) == [source]


def chunks(*values: int) -> Iterator[Bytes]:
    for value in values:
        yield np.full(100, value, np.uint8)


def test_a_kept_tensor_is_not_made_again(tmp_path: Path) -> None:
    kept = KeptTensors(tmp_path)
    first = np.concatenate(list(kept.chunks("a", 200, lambda: chunks(1, 2))))
    again = np.concatenate(list(kept.chunks("a", 200, chunks)))
    assert first.tobytes() == again.tobytes()


def test_a_tensor_that_was_interrupted_is_not_kept(tmp_path: Path) -> None:
    """Its maker stops after the first chunk, as a killed process does."""
    kept = KeptTensors(tmp_path)
    made = kept.chunks("a", 200, lambda: chunks(1, 2))
    next(made)
    made.close()  # type: ignore[attr-defined]  # it is a generator
    assert not kept.has("a", 200)
    assert list(tmp_path.iterdir()) == []


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    kept = KeptTensors(tmp_path, most_bytes=450)
    for key in ("a", "b"):
        list(kept.chunks(key, 200, lambda: chunks(1, 2)))
    os.utime(kept.path_of("a"), (1, 1))
    list(kept.chunks("c", 200, lambda: chunks(1, 2)))
    assert [kept.has(key, 200) for key in "abc"] == [False, True, True]
    list(kept.chunks("d", 500, lambda: chunks(1, 2, 3, 4, 5)))
    assert not kept.has("d", 500)


def test_tensors_are_kept_where_the_file_needs_no_room(tmp_path: Path) -> None:
    kept = KeptTensors(tmp_path, reserved_bytes=1 << 60)
    assert len(list(kept.chunks("a", 200, lambda: chunks(1, 2)))) == 2
    assert list(tmp_path.iterdir()) == []
