"""A cut model is the whole model: its logits against llama.cpp's, for every architecture and type.

Set DURE_PARITY_REPORT to a file to get every figure as JSON lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dure.engine.executor import Batch, Executor
from dure.engine.kv import Copy, Forget, Swap
from dure.engine.wire import Wire
from dure.model.gguf import GgufWriter, open_gguf
from tests.support.cut_models import (
    Floats,
    cut_executor,
    most_error,
    prefill_and_decode,
    reference_of_cut,
    relative_error,
    step,
    whole_executor,
)
from tests.support.random_models import SHAPES, reference_logits, write_random_model, write_split

TYPES = ("F32", "F16", "Q8_0", "Q4_0", "Q4_K", "Q6_K")
CUTS = ([1, 1], [3, 1], [1, 1, 1], [3, 2, 1], [1] * 4, [4, 1, 2, 1], [1] * 5, [3, 1, 2, 1, 1])
UNEVEN = tuple(cut for cut in CUTS if len(set(cut)) > 1)
FIRST_OF_BLOCKS = {
    "F32",
    "Q4_0",
    "Q4_K",
}  # of one weight, of 32 and of 256: they decide where a cut may lie
N_PREFILL, N_TOKENS = 24, 32


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_logits_of_every_cut_are_the_whole_models(
    name: str, type_name: str, tmp_path: Path
) -> None:
    """Over 2 to 5 ranks, even and uneven, prefill and decode, with float32 sums.

    Types whose blocks are as long as those of another are cut unevenly alone.
    """
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES[name], type_name)
    tokens = np.random.default_rng(3).integers(0, SHAPES[name].n_vocab, N_TOKENS).tolist()
    references: dict[tuple[str, ...], Floats] = {}
    for shares in CUTS if type_name in FIRST_OF_BLOCKS else UNEVEN:
        reference, changed = reference_of_cut(path, shares, tokens, N_PREFILL, references)
        with cut_executor(path, shares, tmp_path / "shards") as executor:
            logits = prefill_and_decode(executor, tokens, N_PREFILL)
        error = relative_error(logits, reference)
        _note(name, type_name, shares, error, changed, relative_error(logits, references[()]))
        most = most_error(type_name)
        assert error <= most, f"shares {shares}: {error:.2e}"
        _assert_same_choice(logits, reference, most)


def _assert_same_choice(logits: Floats, reference: Floats, most: float) -> None:
    """The best token is the same wherever the two best are further apart than the error allowed."""
    second, first = np.sort(reference, axis=1)[:, -2:].T
    decided = first - second > most * np.abs(reference).max(axis=1)
    assert decided.any()
    assert (logits.argmax(axis=1) == reference.argmax(axis=1))[decided].all()


def _note(
    name: str, type_name: str, shares: Sequence[float], error: float, changed: int, whole: float
) -> None:
    report = os.environ.get("DURE_PARITY_REPORT")
    if report:
        line = {
            "model": name,
            "type": type_name,
            "shares": list(shares),
            "error": error,
            "reencoded_tensors": changed,
            "error_against_source": whole,
        }
        with Path(report).open("a") as file:
            file.write(json.dumps(line) + "\n")


def _random_tokens(n_vocab: int, n: int) -> list[int]:
    return [int(t) for t in np.random.default_rng(5).integers(0, n_vocab, n)]


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_gemma3_27b_scales_its_queries_as_the_whole_model(n_ranks: int, tmp_path: Path) -> None:
    """At 62 layers llama.cpp scales by n_embd / n_head, and a shard has fewer heads."""
    shape = replace(SHAPES["gemma3"], n_layer=62)
    path = tmp_path / "model.gguf"
    write_random_model(path, shape, "F32")
    tokens = _random_tokens(shape.n_vocab, 6)
    reference = reference_logits(path, tokens, 4)
    with cut_executor(path, [1] * n_ranks, tmp_path) as executor:
        logits = prefill_and_decode(executor, tokens, 4)
    assert relative_error(logits, reference) <= 5e-3  # 62 layers of rounding


def test_a_split_model_cuts_as_the_whole_file_does(tmp_path: Path) -> None:
    """Three files of one model, named by the second, give the logits of the single file."""
    shape = SHAPES["llama"]
    single = tmp_path / "single.gguf"
    write_random_model(single, shape, "Q8_0")
    parts = write_split(tmp_path / "split", shape, "Q8_0", 3)
    tokens = _random_tokens(shape.n_vocab, 12)
    reference = reference_logits(single, tokens, 10)
    with open_gguf(parts[1]) as model:
        first = model.paths[0]
    with cut_executor(first, [2, 1], tmp_path / "shards") as executor:
        logits = prefill_and_decode(executor, tokens, 10)
    assert relative_error(logits, reference) <= most_error("Q8_0")


def test_types_may_differ_from_layer_to_layer(tmp_path: Path) -> None:
    """A Q4_K model whose last layer is Q6_K, as llama.cpp's mixes are, keeps parity."""
    shape = SHAPES["qwen3"]
    low, high, mixed = (tmp_path / f"{name}.gguf" for name in ("low", "high", "mixed"))
    write_random_model(low, shape, "Q4_K")
    write_random_model(high, shape, "Q6_K")
    last = f"blk.{shape.n_layer - 1}."
    with open_gguf(low) as a, open_gguf(high) as b:
        tensors = [(b if t.name.startswith(last) else a, t.name) for t in a.tensors.values()]
        specs = [source.tensors[name] for source, name in tensors]
        with GgufWriter(mixed, dict(a.metadata), specs) as writer:
            for source, name in tensors:
                writer.write(source.read(source.tensors[name], 0, source.tensors[name].size_bytes))
    tokens = _random_tokens(shape.n_vocab, 16)
    reference = reference_logits(mixed, tokens, 12)
    with cut_executor(mixed, [1, 1], tmp_path) as executor:
        logits = prefill_and_decode(executor, tokens, 12)
    assert relative_error(logits, reference) <= most_error("Q8_0")


@pytest.mark.parametrize("wire", list(Wire))
def test_tensors_in_device_memory_are_summed_alike(wire: Wire, tmp_path: Path) -> None:
    """Copied out and in, as from a GPU, partial vectors give the same bits as in host memory."""
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES["qwen3moe"], "Q8_0")
    tokens = _random_tokens(SHAPES["qwen3moe"].n_vocab, 12)
    results = []
    for staged in (False, True):
        with cut_executor(path, [1, 1], tmp_path, wire=wire, staged=staged) as executor:
            results.append(prefill_and_decode(executor, tokens, 10))
    assert np.array_equal(results[0], results[1])


@pytest.mark.parametrize("wire", list(Wire))
def test_long_prompts_are_summed_in_two_phases(wire: Wire, tmp_path: Path) -> None:
    """A prompt is summed in two where that is said to be quicker; decoding stays in one."""
    path, shape = tmp_path / "model.gguf", SHAPES["qwen3"]
    write_random_model(path, shape, "F32")
    tokens = _random_tokens(shape.n_vocab, 301)
    reference = reference_logits(path, tokens, 300)
    one_vector = shape.n_embd * (4 if wire is Wire.F32 else 34 / 32)
    sums = 2 * shape.n_layer
    with cut_executor(
        path, [1] * 4, tmp_path, wire=wire, two_phase_above=2 * one_vector
    ) as executor:
        prompt = executor.step(_batch(tokens[:300], 0))
        logits = [executor.logits(0)]
        decoding = executor.step(_batch(tokens[300:], 300))
        logits.append(executor.logits(0))
    # Two phases send a quarter to each of three ranks, twice; one phase sends all to each. The last
    # layer's second sum is of the one token whose logits are wanted.
    in_two_phases = (sums - 1) * 300 * one_vector * 6 / 4
    assert prompt.stats.bytes_sent[0] == in_two_phases + one_vector * 3
    assert decoding.stats.bytes_sent[0] == sums * one_vector * 3
    assert relative_error(np.stack(logits), reference) <= (1e-3 if wire is Wire.F32 else 5e-2)


def _batch(tokens: Sequence[int], position: int) -> Batch:
    """The tokens of sequence 0 from `position` on, with the logits of the last one wanted."""
    n = len(tokens)
    positions = np.arange(position, position + n, dtype=np.int32)
    return Batch(np.array(tokens, np.int32), positions, np.zeros(n, np.int32), [n - 1], top_k=1)


@pytest.mark.parametrize("wire", list(Wire))
def test_a_width_that_fills_no_blocks_of_32_is_summed(wire: Wire, tmp_path: Path) -> None:
    """With 200 columns, an odd number of tokens leaves the last block of a sum unfilled."""
    shape = replace(SHAPES["qwen3"], n_embd=200, n_head=4, n_head_kv=2)
    path = tmp_path / "model.gguf"
    write_random_model(path, shape, "F32")
    tokens = _random_tokens(shape.n_vocab, 16)
    reference = reference_logits(path, tokens, 13)
    with cut_executor(path, [2, 1, 1], tmp_path, wire=wire) as executor:
        logits = prefill_and_decode(executor, tokens, 13)
    assert relative_error(logits, reference) <= (1e-3 if wire is Wire.F32 else 5e-2)


@pytest.mark.parametrize("name", SHAPES)
def test_a_prompt_in_several_steps_is_a_prompt_in_one(name: str, tmp_path: Path) -> None:
    """Steps whose logits nobody wants, as of all but the end of a long prompt, fill the cache."""
    path, shape = tmp_path / "model.gguf", SHAPES[name]
    write_random_model(path, shape, "F32")
    tokens = _random_tokens(shape.n_vocab, 20)
    (reference,) = reference_logits(path, tokens, 20)
    with cut_executor(path, [2, 1], tmp_path) as executor:
        for first, stop in ((0, 10), (10, 11), (11, 15)):
            result = executor.step(replace(_batch(tokens[first:stop], first), outputs=()))
            assert result.rows == ()
        logits = step(executor, tokens[15:], 15)
    assert relative_error(logits, reference) <= most_error("F32")


def test_the_same_steps_give_the_same_bits(tmp_path: Path) -> None:
    """Nothing depends on which rank's message comes first."""
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES["gpt-oss"], "Q4_0")
    tokens = _random_tokens(SHAPES["gpt-oss"].n_vocab, 20)
    with cut_executor(path, [1, 1, 1], tmp_path, wire=Wire.Q8) as executor:
        results = [prefill_and_decode(executor, tokens, 12) for _ in range(3)]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_sequences_share_a_batch_and_a_cache(tmp_path: Path) -> None:
    """Two sequences in one batch, copied, cut back and swapped, give what the whole model gives."""
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES["qwen3"], "F32")
    tokens = _random_tokens(SHAPES["qwen3"].n_vocab, 24)
    with (
        cut_executor(path, [3, 1], tmp_path) as cut,
        whole_executor(path) as whole,
    ):
        for executor in (cut, whole):
            step(executor, tokens[:10], 0)
        rows = [_mixed_steps(executor, tokens) for executor in (cut, whole)]
    assert relative_error(rows[0], rows[1]) <= 1e-3


def _mixed_steps(executor: Executor, tokens: Sequence[int]) -> Floats:
    """Copy sequence 0 to 1, go on with both in one batch, cut 0 back to 5 tokens, and swap both.

    Sequence 1 then changes places with one that holds nothing.
    """
    both = Batch(
        np.array([tokens[10], tokens[11]], np.int32),
        np.array([10, 10], np.int32),
        np.array([0, 1], np.int32),
        [0, 1],
        top_k=1,
        kv=[Copy(0, 1)],
    )
    executor.step(both)
    rows = [executor.logits(0), executor.logits(1)]
    rows.append(step(executor, tokens[12:20], 5, kv=[Forget(0, 5)]))
    rows.append(step(executor, tokens[20:22], 11, sequence=1))
    rows.append(step(executor, tokens[22:23], 13, kv=[Swap(0, 1)]))
    rows.append(step(executor, tokens[23:24], 13, sequence=1))
    rows.append(step(executor, tokens[:2], 0, sequence=1, kv=[Swap(1, 2)]))
    rows.append(step(executor, tokens[2:4], 14, sequence=2))
    return np.stack(rows)
