"""An adapter at run time is the same model as one with the adapter merged into its weights.

On one rank and cut over several, while they run; compared with llama.cpp's logits of the merged model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.engine.executor import Batch, FullExecutor
from dure.engine.kv import Clear
from dure.errors import CutError, ModelError, UsageError
from dure.model.adapter import check_adapter, open_adapter, plan_adapter
from dure.model.cut import plan_cut
from dure.model.gguf import open_gguf
from dure.model.shard import cut_model
from tests.support.adapters import is_of_layer, write_adapter, write_merged
from tests.support.cut_models import Floats, cut_executor, relative_error, whole_executor
from tests.support.random_models import SHAPES, reference_logits, write_random_model

N_PREFILL, N_TOKENS = 12, 16
MOST_ERROR = 1e-3
CUTS = ([1], [1, 1], [3, 1], [1, 1, 1], [3, 2, 1])


@contextmanager
def running(model: Path, shares: Sequence[float], directory: Path) -> Iterator[FullExecutor]:
    if len(shares) == 1:
        with whole_executor(model) as whole:
            yield whole
    else:
        with cut_executor(model, shares, directory) as cut:
            yield cut


def load(
    executor: FullExecutor, model: Path, adapter: Path, shares: Sequence[float], directory: Path
) -> int:
    """Load an adapter as a deployment does: cut like the model."""
    with open_gguf(model) as source, open_adapter(adapter) as file:
        check_adapter(file, source)
        if len(shares) == 1:
            return executor.load_adapter([str(adapter)])
        parts = plan_adapter(file, plan_cut(source, shares), directory)
        cut_model(file, parts)
        return executor.load_adapter([part.path.name for part in parts])


def logits(executor: FullExecutor, tokens: Sequence[int], adapters: AdapterSet) -> Floats:
    """Return the logits after a prompt, and after each further token: float32 [rows, n_vocab]."""
    rows = []
    for first, stop in pairwise([0, *range(N_PREFILL, len(tokens) + 1)]):
        n = stop - first
        executor.step(
            Batch(
                np.array(tokens[first:stop], np.int32),
                np.arange(first, stop, dtype=np.int32),
                np.zeros(n, np.int32),
                [n - 1],
                top_k=1,
                kv=[] if first else [Clear()],
                adapters=adapters,
            )
        )
        rows.append(executor.logits(0))
    return np.stack(rows)


def random_tokens(n_vocab: int) -> list[int]:
    return [int(t) for t in np.random.default_rng(3).integers(0, n_vocab, N_TOKENS)]


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_the_merged_model(name: str, tmp_path: Path) -> None:
    """Of every architecture, on one rank and over 2 and 3, even and uneven; and without it again."""
    model, adapter = tmp_path / "model.gguf", tmp_path / "adapter.gguf"
    write_random_model(model, SHAPES[name], "F32")
    write_adapter(model, adapter)
    merged = write_merged(model, [(adapter, 0.7)], tmp_path / "merged.gguf")
    tokens = random_tokens(SHAPES[name].n_vocab)
    plain, wanted = (reference_logits(path, tokens, N_PREFILL) for path in (model, merged))
    assert relative_error(plain, wanted) > 0.1, "the adapter changes much"
    for shares in CUTS:
        with running(model, shares, tmp_path / "shards") as executor:
            before = logits(executor, tokens, NO_ADAPTERS)
            number = load(executor, model, adapter, shares, tmp_path / "shards")
            assert relative_error(logits(executor, tokens, ((number, 0.7),)), wanted) <= MOST_ERROR
            after = logits(executor, tokens, NO_ADAPTERS)
        assert relative_error(before, plain) <= MOST_ERROR
        assert np.array_equal(before, after), "to load and to use one leaves nothing behind"


@pytest.mark.parametrize("shares", [[1], [2, 1]])
def test_several_add_up(shares: list[float], tmp_path: Path) -> None:
    """Two adapters, of another rank each, that change partly the same weights, with scales of their own."""
    model = tmp_path / "model.gguf"
    write_random_model(model, SHAPES["llama"], "F32")
    first = write_adapter(model, tmp_path / "first.gguf", rank=4)
    second = write_adapter(
        model, tmp_path / "second.gguf", seed=1, rank=16, wanted=lambda name: "ffn" in name
    )
    merged = write_merged(model, [(first, 0.5), (second, -1.5)], tmp_path / "merged.gguf")
    tokens = random_tokens(SHAPES["llama"].n_vocab)
    wanted = reference_logits(merged, tokens, N_PREFILL)
    with running(model, shares, tmp_path / "shards") as executor:
        for path in (first, second):
            load(executor, model, path, shares, tmp_path / "shards")
        found = logits(executor, tokens, ((0, 0.5), (1, -1.5)))
    assert relative_error(found, wanted) <= MOST_ERROR


def test_an_adapter_adds_no_traffic(tmp_path: Path) -> None:
    """What it adds to a partial vector is summed with it: as many bytes go over the wire as without."""
    model = tmp_path / "model.gguf"
    write_random_model(model, SHAPES["qwen3"], "F32")
    adapter = write_adapter(model, tmp_path / "adapter.gguf")
    batch = Batch(np.array([5], np.int32), np.zeros(1, np.int32), np.zeros(1, np.int32), [0], 1)
    with running(model, [1, 1], tmp_path) as executor:
        load(executor, model, adapter, [1, 1], tmp_path)
        without = executor.step(batch).stats.bytes_sent
        clear = [Clear()]
        with_one = executor.step(
            Batch(
                batch.tokens, batch.positions, batch.sequences, [0], 1, clear, adapters=((0, 1.0),)
            )
        ).stats.bytes_sent
    assert with_one == without


@pytest.mark.parametrize("shares", [[1], [1, 1]])
@pytest.mark.parametrize("rank", [3, 8, 16])
def test_tokens_are_the_same_alone_and_among_others(
    rank: int, shares: list[float], tmp_path: Path
) -> None:
    """To the last bit, with an adapter of any rank: a prompt at once, and token by token."""
    model = tmp_path / "model.gguf"
    write_random_model(model, SHAPES["qwen3"], "F16")
    adapter = write_adapter(model, tmp_path / "adapter.gguf", rank=rank, type_name="F16")
    tokens = random_tokens(SHAPES["qwen3"].n_vocab)
    with running(model, shares, tmp_path) as executor:
        load(executor, model, adapter, shares, tmp_path)
        one_by_one = logits(executor, tokens, ((0, 1.0),))[-1]
        n = len(tokens)
        at_once = Batch(
            np.array(tokens, np.int32),
            np.arange(n, dtype=np.int32),
            np.zeros(n, np.int32),
            [n - 1],
            1,
            [Clear()],
            adapters=((0, 1.0),),
        )
        executor.step(at_once)
        assert np.array_equal(executor.logits(0), one_by_one)


def test_a_quantized_adapter_is_cut_too(tmp_path: Path) -> None:
    """Columns that would break a block are written in another type."""
    model = tmp_path / "model.gguf"
    write_random_model(model, SHAPES["qwen3"], "F32")
    adapter = write_adapter(model, tmp_path / "adapter.gguf", rank=256, type_name="Q6_K")
    tokens = random_tokens(SHAPES["qwen3"].n_vocab)
    merged = write_merged(model, [(adapter, 1.0)], tmp_path / "merged.gguf")
    wanted = reference_logits(merged, tokens, N_PREFILL)
    with running(model, [3, 1], tmp_path) as executor:
        load(executor, model, adapter, [3, 1], tmp_path)
        found = logits(executor, tokens, ((0, 1.0),))
    assert relative_error(found, wanted) <= 2e-2, "products of quantized weights round activations"


def test_tables_of_the_vocabulary_may_be_changed_on_one_rank(tmp_path: Path) -> None:
    """If reading and writing have a table each; a cut refuses them by name."""
    model = tmp_path / "model.gguf"
    write_random_model(model, SHAPES["llama"], "F32")
    adapter = write_adapter(model, tmp_path / "adapter.gguf", wanted=lambda _: True)
    tokens = random_tokens(SHAPES["llama"].n_vocab)
    merged = write_merged(model, [(adapter, 1.0)], tmp_path / "merged.gguf")
    wanted = reference_logits(merged, tokens, N_PREFILL)
    with running(model, [1], tmp_path) as executor:
        load(executor, model, adapter, [1], tmp_path)
        assert relative_error(logits(executor, tokens, ((0, 1.0),)), wanted) <= MOST_ERROR
    refused = pytest.raises(CutError, match=r"changes token_embd\.weight, .*: run it on one rank")
    with open_gguf(model) as source, open_adapter(adapter) as file, refused:
        plan_adapter(file, plan_cut(source, [1, 1]), tmp_path)


def test_an_output_that_is_no_table_of_prompts_is_cut(tmp_path: Path) -> None:
    """As gpt-oss has it; of others a shard's output has the table's name, so it is refused."""
    models = {name: tmp_path / f"{name}.gguf" for name in ("gpt-oss", "llama")}
    adapters = {}
    for name, path in models.items():
        write_random_model(path, SHAPES[name], "F32")
        adapters[name] = write_adapter(
            path, tmp_path / f"{name}-a.gguf", wanted=lambda name: name == "output.weight"
        )
    merged = write_merged(models["gpt-oss"], [(adapters["gpt-oss"], 1.0)], tmp_path / "m.gguf")
    tokens = random_tokens(SHAPES["gpt-oss"].n_vocab)
    wanted = reference_logits(merged, tokens, N_PREFILL)
    with running(models["gpt-oss"], [2, 1], tmp_path) as executor:
        load(executor, models["gpt-oss"], adapters["gpt-oss"], [2, 1], tmp_path)
        assert relative_error(logits(executor, tokens, ((0, 1.0),)), wanted) <= MOST_ERROR
    refused = pytest.raises(CutError, match=r"changes output\.weight, which cannot be cut")
    with open_gguf(models["llama"]) as source, open_adapter(adapters["llama"]) as file, refused:
        plan_adapter(file, plan_cut(source, [1, 1]), tmp_path)


# ---------------------------------------------------------------- what is refused


def refusal(adapter: Path, model: Path) -> str:
    with (
        open_gguf(model) as source,
        pytest.raises(ModelError) as error,
        open_adapter(adapter) as file,
    ):
        check_adapter(file, source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_adapter_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    """Another architecture, another width, and layers that the model lacks; each with the cure."""
    small, large, other = (tmp_path / f"{name}.gguf" for name in ("small", "large", "other"))
    write_random_model(small, SHAPES["qwen3"], "F32")
    write_random_model(large, SHAPES["qwen3moe"], "F32")
    write_random_model(other, SHAPES["qwen2"], "F32")
    own = write_adapter(small, tmp_path / "own.gguf", wanted=lambda name: "attn_q" in name)
    assert refusal(own, large) == (
        "own.gguf changes a model of qwen3, but large.gguf is qwen3moe: it was made for another model: "
        "name that one"
    )
    wide = write_adapter(
        other,
        tmp_path / "wide.gguf",
        wanted=is_of_layer,
        metadata={"general.architecture": "qwen3"},
    )
    assert refusal(wide, small).startswith(
        "wide.gguf changes blk.0.attn_q.weight by [512, 8] and [8, 512], but it has shape [256, 512] in "
        "small.gguf: "
    )
    experts = write_adapter(
        large,
        tmp_path / "experts.gguf",
        wanted=lambda name: "exps" in name,
        metadata={"general.architecture": "qwen3"},
    )
    assert "changes blk.0.ffn_gate_exps.weight, which small.gguf lacks: " in refusal(experts, small)


def test_what_is_no_adapter_is_refused_by_name(tmp_path: Path) -> None:
    """A model, another kind of adapter, an activated one, half a pair, and a table that has two uses."""
    model = tmp_path / "model.gguf"
    write_random_model(model, SHAPES["qwen3"], "F32")
    assert refusal(model, model) == (
        "model.gguf is no adapter: its general.type is model: name a LoRA adapter in GGUF"
    )
    kinds = {"adapter.type": "control_vector"}
    assert "of type 'control_vector'" in refusal(
        write_adapter(model, tmp_path / "kind.gguf", metadata=kinds), model
    )
    late = write_adapter(
        model, tmp_path / "late.gguf", metadata={"adapter.alora.invocation_tokens": "1"}
    )
    assert "is an activated LoRA" in refusal(late, model)
    model_moe = tmp_path / "moe.gguf"
    write_random_model(model_moe, SHAPES["gpt-oss"], "F32")
    bias = write_adapter(
        model_moe, tmp_path / "bias.gguf", wanted=lambda n: n.endswith("exps.bias")
    )
    assert "changes blk.0.ffn_gate_exps.bias, but" in refusal(bias, model_moe)
    tied = write_adapter(model, tmp_path / "tied.gguf", wanted=lambda name: "token_embd" in name)
    assert "merge the adapter into the model" in refusal(tied, model)
    renamed = tmp_path / "half.gguf"
    whole = write_adapter(model, tmp_path / "pair.gguf", wanted=lambda name: "attn_q" in name)
    renamed.write_bytes(whole.read_bytes().replace(b".weight.lora_b", b".weight.lora_c"))
    assert "is no half of a LoRA pair" in refusal(renamed, model)


@pytest.mark.parametrize("shares", [[1], [1, 1]])
def test_a_rank_that_cannot_load_says_why_and_goes_on(shares: list[float], tmp_path: Path) -> None:
    """A file that is damaged for llama.cpp alone: nothing is loaded, and steps go on."""
    model = tmp_path / "model.gguf"
    write_random_model(model, SHAPES["qwen3"], "F32")
    wrong = write_adapter(
        model, tmp_path / "wrong.gguf", metadata={"general.architecture": "llama"}
    )
    good = write_adapter(model, tmp_path / "good.gguf")
    tokens = random_tokens(SHAPES["qwen3"].n_vocab)
    with running(model, shares, tmp_path) as executor:
        with pytest.raises(ModelError, match=r"wrong\.gguf: .*: make it again, for this model"):
            executor.load_adapter([str(wrong)] * len(shares))
        with pytest.raises(UsageError, match=r"not all among those loaded: \[\]"):
            logits(executor, tokens, ((0, 1.0),))
        assert load(executor, model, good, shares, tmp_path) == 0
        logits(executor, tokens, ((0, 1.0),))
