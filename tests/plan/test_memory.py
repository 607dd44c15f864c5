"""What a model is said to take is what llama.cpp takes, and a context that is proposed fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dure.errors import ResourceError, UsageError
from dure.hardware.machine import Machine
from dure.hardware.probe import probe
from dure.model.cache_shape import cache_shape_of
from dure.model.context import CTX_GRAIN, n_kept_states
from dure.model.cut import plan_cut
from dure.model.gguf import open_gguf
from dure.model.shard import cut_model, plan_shards
from dure.model.vocabulary import Vocabulary
from dure.plan.memory import (
    DEFAULT_CTX,
    RankMemory,
    choose_ctx,
    memory_of,
    n_batch_of,
    rank_memory,
    whole_memory,
)
from tests.support.random_models import SHAPES, Shape, write_random_model
from tests.support.recurrent_models import RECURRENT, write_recurrent_model

N_CTX, N_SEQUENCES = 2048, 3
DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
N_DEMO_TOKENS = 2048
MEBIBYTE = 1 << 20
SHOWN = 0.01 * MEBIBYTE  # llama.cpp's log has two decimals

# Loads each file as dure does, and prints what llama.cpp logs of the KV cache and the weights.
ASK_LLAMA = """
import ctypes, json, re, sys
from pathlib import Path
import llama_cpp.llama_cpp as lib
from dure.engine.compute.llama import LoadedModel
from dure.engine.limits import Limits
from dure.model.llama_log import silence_llama

lines = []
silence_llama()
callback = lib.llama_log_callback(lambda level, text, _: lines.append(text.decode()))
lib.llama_log_set(callback, ctypes.c_void_p(0))
for path in sys.argv[3:]:
    lines.clear()
    limits = Limits(int(sys.argv[1]), 1, n_batch=int(sys.argv[2]), n_sequences=3)
    model = LoadedModel(Path(path), limits)
    sizes = re.findall(r"(?:KV|RS) buffer size = +([\\d.]+) MiB", "".join(lines))
    print(json.dumps([sum(map(float, sizes)), model.weights_bytes]))
    model.close()
"""


def ask_llama(paths: list[Path]) -> list[tuple[float, int]]:
    """Of each file: bytes of N_SEQUENCES KV caches for N_CTX tokens (to SHOWN), and of the weights."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ASK_LLAMA,
            str(N_CTX),
            str(n_batch_of(N_SEQUENCES)),
            *map(str, paths),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [(mib * MEBIBYTE, weights) for mib, weights in answers]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model of every architecture: sliding windows, experts and running states among them."""
    directory = tmp_path_factory.mktemp("random")
    paths = {name: directory / f"{name}.gguf" for name in SHAPES}
    for name, path in paths.items():
        write_random_model(path, SHAPES[name], "Q8_0")
    for name in RECURRENT:
        paths[name] = directory / f"{name}.gguf"
        write_recurrent_model(paths[name], name, N_DEMO_TOKENS, DEMO)
    return paths


def test_the_kv_cache_of_every_architecture_is_as_large_as_llama_cpp_makes_it(
    models: dict[str, Path],
) -> None:
    """Cells of all positions, of a window's, and running states are those of llama.cpp's log."""
    for path, (kv_bytes, _) in zip(models.values(), ask_llama([*models.values()]), strict=True):
        with open_gguf(path) as gguf:
            memory = memory_of(0, cache_shape_of(gguf))
        assert kv_bytes == pytest.approx(without_kept_states(memory), abs=2 * SHOWN), path.name
        assert kv_bytes >= MEBIBYTE / 4


def without_kept_states(memory: RankMemory) -> int:
    state_bytes = memory.window_bytes_per_token * memory.n_window + memory.state_bytes
    return memory.kv_bytes(N_CTX, N_SEQUENCES) - n_kept_states(N_SEQUENCES) * state_bytes


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_a_shard_takes_what_was_planned_for_its_rank(
    models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """Weights and KV cache of each of 3 uneven ranks are those that llama.cpp loads and makes."""
    with open_gguf(models[name]) as gguf:
        plan = plan_cut(gguf, [3, 2, 1])
        shards = plan_shards(gguf, plan, tmp_path)
        cut_model(gguf, shards)
    for shard, (kv_bytes, weights_bytes) in zip(
        shards, ask_llama([shard.path for shard in shards]), strict=True
    ):
        expected = without_kept_states(rank_memory(plan, shard.size))
        assert kv_bytes == pytest.approx(expected, abs=2 * SHOWN)
        assert weights_bytes == shard.weights_bytes


def machine(available_bytes: int) -> Machine:
    return Machine(cores=4, memory_bytes=2 * available_bytes, available_bytes=available_bytes)


def test_the_default_context_is_4096_or_what_the_model_was_trained_for() -> None:
    """Without a wish, the smaller of the two, and never more than was trained."""
    ranks = [RankMemory(10**9, 1000)]
    assert choose_ctx(None, 131072, ranks, machine(10**11)) == DEFAULT_CTX
    assert choose_ctx(None, 2048, ranks, machine(10**11)) == 2048
    assert choose_ctx(None, 1000, ranks, machine(10**11)) == 1000


def test_a_wished_context_is_kept_and_its_cache_counted_as_llama_cpp_rounds_it() -> None:
    """The limit of an answer is what was asked for; the memory is that of the next step of 256."""
    ranks = [RankMemory(10**9, 1000)]
    for asked in (1, 1025, 2048):
        assert choose_ctx(asked, 2048, ranks, machine(10**11)) == asked
    assert [ranks[0].kv_bytes(n) for n in (1, CTX_GRAIN, 1025)] == [256_000, 256_000, 1_280_000]


@pytest.mark.parametrize("asked", [0, -1])
def test_a_context_of_nothing_is_refused(asked: int) -> None:
    """The number is named."""
    with pytest.raises(UsageError, match=rf"--ctx {asked}: .* above 0"):
        choose_ctx(asked, 2048, [RankMemory(1, 1)], machine(10**11))


def test_a_context_beyond_the_training_is_refused_with_the_longest() -> None:
    """The cure names the number that then is accepted."""
    with pytest.raises(UsageError, match=r"--ctx 2049 .* 2048 .* at most --ctx 2048"):
        choose_ctx(2049, 2048, [RankMemory(1, 1)], machine(10**11))


def test_weights_that_do_not_fit_need_another_model() -> None:
    """Where no context helps, no context is proposed."""
    with pytest.raises(ResourceError, match=r"4\.0 GB are free: even the weights do not fit"):
        choose_ctx(None, 8192, [RankMemory(5 * 10**9, 1000)], machine(4 * 10**9))


ranks_of_memory = st.lists(
    st.builds(
        RankMemory,
        st.integers(0, 10**10),
        st.integers(1, 10**6),
        width=st.integers(0, 10**5),
        n_embd=st.integers(1, 10**4),
        n_vocab=st.integers(1, 10**6),
        window_bytes_per_token=st.integers(0, 10**6),
        n_window=st.sampled_from([0, 128, 4096]),
        state_bytes=st.integers(0, 10**8),
        loading_bytes=st.integers(0, 10**9),
    ),
    min_size=1,
    max_size=8,
)


@given(st.integers(1, 10**6), st.integers(1, 10**6), ranks_of_memory, st.integers(10**8, 10**11))
def test_a_chosen_context_fits_and_a_proposed_one_does_too(
    asked: int, trained: int, ranks: list[RankMemory], available: int
) -> None:
    """All ranks' weights, caches and processes fit what is free; a refusal's cure is accepted."""
    assume(asked <= trained)
    n_ctx = None
    try:
        n_ctx = choose_ctx(asked, trained, ranks, machine(available))
    except ResourceError as error:
        words = str(error).split("use --ctx ")
        if len(words) == 2:
            n_ctx = choose_ctx(int(words[1].split()[0]), 10**9, ranks, machine(available))
            assert n_ctx < asked
        else:
            least = sum(rank.total_bytes(0) + rank.full_windows_bytes(1) for rank in ranks)
            assert least + CTX_GRAIN * sum(r.bytes_per_position(1) for r in ranks) > available
    if n_ctx is not None:
        assert sum(rank.total_bytes(n_ctx) for rank in ranks) <= available


# ---------------------------------------------------------------- beside what ranks really take

# Starts a model on two ranks, fills every context with prompts, copies one, and prints each rank's peak.
FILL = """
import json, sys
from pathlib import Path
import numpy as np
from dure.deploy.options import RunOptions
from dure.deploy.start import start_model
from dure.engine.executor import Batch
from dure.engine.kv import Copy, Forget
from dure.model.gguf import open_gguf

path, n_ctx, n_sequences = Path(sys.argv[1]), *map(int, sys.argv[2:])
options = RunOptions(ranks=2, threads=1, ctx=n_ctx, n_sequences=n_sequences)
with open_gguf(path) as model:
    executor = start_model(model, options).executor
n_batch = executor.info.n_batch
for sequence in range(n_sequences):
    for start in range(0, n_ctx, n_batch):
        positions = np.arange(start, min(n_ctx, start + n_batch), dtype=np.int32)
        n = len(positions)
        outputs = list(range(max(0, n - executor.info.n_outputs), n))
        executor.step(Batch(positions % 900, positions, positions * 0 + sequence, outputs, 8))
if n_sequences > 1:
    none = np.zeros(0, np.int32)
    executor.step(Batch(none, none, none, [], 1, [Forget(1), Copy(0, 1)]))
print(json.dumps([facts.peak_bytes for facts in executor.facts()]))
executor.close()
"""
LONG = " ".join(f"the goat number {n} ate a leaf," for n in range(300))
KINDS = {
    "feed-forward": (Shape("llama", 2, 2048, 16, 4, 128, 8192, 2048, n_ctx_train=4096), "Q4_0"),
    "heads": (Shape("llama", 2, 512, 64, 8, 64, 768, 2048, n_ctx_train=4096), "Q8_0"),
    "experts": (
        Shape("qwen3moe", 2, 1024, 8, 4, 64, 512, 2048, 16, 8, qk_norm=True, n_ctx_train=4096),
        "Q4_0",
    ),
    "vocabulary": (Shape("qwen3", 2, 512, 8, 4, 64, 768, 60000, tied=True, qk_norm=True), "Q4_0"),
}
"""Models with much of one thing; the last one's table of embeddings is held twice."""


def peaks(cache: Path, *words: str, text: str = "") -> list[int]:
    """What each rank took at most, as a command told in the end. text: what it read."""
    done = subprocess.run(
        [sys.executable, *words],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "DURE_CACHE": str(cache)},
    )
    told = json.loads(done.stdout)
    found: list[int] = told if isinstance(told, list) else told["peak_memory_bytes"]
    return found


def planned(path: Path, n_ctx: int, n_ranks: int, n_sequences: int) -> list[int]:
    """What each rank is said to take."""
    features = probe().features
    with open_gguf(path) as gguf:
        if n_ranks == 1:
            ranks = [whole_memory(gguf, features)[0]]
        else:
            plan = plan_cut(gguf, [1.0] * n_ranks)
            shards = plan_shards(gguf, plan, Path())
            ranks = [rank_memory(plan, shard.size, features) for shard in shards]
    return [rank.total_bytes(n_ctx, n_sequences) for rank in ranks]


def check(taken: list[int], planned: list[int]) -> None:
    """The plan is above what was measured, and at most a fifth and 30 MB above it."""
    assert len(taken) == len(planned)
    for most, peak in zip(planned, taken, strict=True):
        told = f"{peak / 1e6:.1f} MB measured, {most / 1e6:.1f} MB planned"
        assert peak <= most <= 1.2 * peak + 30e6, told


@pytest.mark.parametrize("n_ranks", [1, 2])
@pytest.mark.parametrize("name", ["demo", "feed-forward", "heads", "experts"])
def test_a_run_takes_hardly_less_than_was_planned_and_never_more(
    tmp_path: Path, name: str, n_ranks: int
) -> None:
    """A context of 2,048 that a prompt fills nearly."""
    path = DEMO
    if name != "demo":
        path = tmp_path / f"{name}.gguf"
        write_random_model(path, *KINDS[name], vocab=DEMO)
    run = ("-m", "dure.cli.main", "run", str(path), "Go on", "--raw", "--json", "-t", "1")
    n_tokens = 2000
    with open_gguf(DEMO) as gguf:
        vocabulary = Vocabulary(gguf)
        text = b"".join(map(vocabulary.piece, vocabulary.tokenize(LONG)[:n_tokens])).decode()
        vocabulary.close()
    options = ("--ctx", "2048", "-n", "8", "--ranks", str(n_ranks))
    check(peaks(tmp_path, *run, *options, text=text), planned(path, 2048, n_ranks, 1))


@pytest.mark.parametrize(("name", "n_sequences"), [("vocabulary", 1), ("heads", 3)])
def test_a_long_vocabulary_and_several_contexts_are_planned_as_well(
    tmp_path: Path, name: str, n_sequences: int
) -> None:
    """Of two ranks, with as many rows of logits as they may give, and a sequence that is copied."""
    path, n_ctx = tmp_path / f"{name}.gguf", 1024
    write_random_model(path, *KINDS[name])
    taken = peaks(tmp_path, "-c", FILL, str(path), str(n_ctx), str(n_sequences))
    check(taken, planned(path, n_ctx, 2, n_sequences))
