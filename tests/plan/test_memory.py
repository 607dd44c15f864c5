"""What a model is said to take is what llama.cpp takes, and a context that is proposed fits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dure.errors import ResourceError, UsageError
from dure.hardware.machine import Machine
from dure.model.architectures import Along, shape_of
from dure.model.context import CTX_GRAIN
from dure.model.cut import plan_cut
from dure.model.gguf import open_gguf
from dure.model.shard import cut_model, plan_shards
from dure.plan.memory import (
    DEFAULT_CTX,
    PROCESS_BYTES,
    RankMemory,
    choose_ctx,
    kv_bytes_per_token,
)
from tests.support.random_models import SHAPES, write_random_model

N_CTX = 1024
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
for path in sys.argv[2:]:
    lines.clear()
    model = LoadedModel(Path(path), Limits(int(sys.argv[1]), threads=1))
    sizes = re.findall(r"KV buffer size = +([\\d.]+) MiB", "".join(lines))
    print(json.dumps([sum(map(float, sizes)), model.weights_bytes]))
    model.close()
"""


def ask_llama(paths: list[Path]) -> list[tuple[float, int]]:
    """Of each file: bytes of the KV cache for N_CTX tokens (to SHOWN), and bytes of the weights."""
    done = subprocess.run(
        [sys.executable, "-c", ASK_LLAMA, str(N_CTX), *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [(mib * MEBIBYTE, weights) for mib, weights in answers]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model of every architecture, sliding windows and experts among them."""
    directory = tmp_path_factory.mktemp("random")
    paths = {name: directory / f"{name}.gguf" for name in SHAPES}
    for name, path in paths.items():
        write_random_model(path, SHAPES[name], "Q8_0")
    return paths


def test_the_kv_cache_of_every_architecture_is_as_large_as_llama_cpp_makes_it(
    models: dict[str, Path],
) -> None:
    """Layers x KV heads x (key + value length) x 2 bytes a token is the size in llama.cpp's log."""
    for path, (kv_bytes, _) in zip(models.values(), ask_llama([*models.values()]), strict=True):
        with open_gguf(path) as gguf:
            shape = shape_of(gguf)
        expected = kv_bytes_per_token(shape, shape.n_head_kv) * N_CTX
        assert kv_bytes == pytest.approx(expected, abs=SHOWN), path.name
        assert expected >= MEBIBYTE


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
        n_head_kv = len(plan.ranks[shard.rank][Along.KV_HEADS])
        expected = kv_bytes_per_token(plan.shape, n_head_kv) * N_CTX
        assert kv_bytes == pytest.approx(expected, abs=SHOWN)
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
    with pytest.raises(ResourceError, match=r"4\.00 GB are free: even the weights do not fit"):
        choose_ctx(None, 8192, [RankMemory(5 * 10**9, 1000)], machine(4 * 10**9))


ranks_of_memory = st.lists(
    st.builds(RankMemory, st.integers(0, 10**10), st.integers(1, 10**6)), min_size=1, max_size=8
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
            least = sum(rank.weights_bytes + PROCESS_BYTES for rank in ranks)
            assert least + CTX_GRAIN * sum(r.kv_bytes_per_token for r in ranks) > available
    if n_ctx is not None:
        taken = sum(
            rank.weights_bytes + PROCESS_BYTES + n_ctx * rank.kv_bytes_per_token for rank in ranks
        )
        assert taken <= available
