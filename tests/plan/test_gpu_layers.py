"""Layers go to a GPU as far as its free memory holds them, and the machine's memory holds the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.hardware.gpu import Gpu
from dure.model.cut import plan_cut
from dure.model.gguf import open_gguf
from dure.model.shard import sized_shards
from dure.plan.gpu_layers import (
    LayerBytes,
    gpus_of_ranks,
    layer_bytes,
    layer_bytes_of,
    layers_on,
    mixed_speed,
)
from dure.plan.memory import RankMemory, whole_memory

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
GB = 10**9
WEIGHTS = LayerBytes((GB // 2,) * 32, GB)
MEMORY = RankMemory(18 * GB, 131_072, width=12_000, n_embd=4_096, n_vocab=128_000)
CARD = Gpu("CUDA0", "a card of 24 GB", 24 * GB, 25 * GB)
N_CTX = 4096


def test_a_card_with_room_gets_every_layer() -> None:
    placed = layers_on(CARD, WEIGHTS, MEMORY, N_CTX)
    assert (placed.n, placed.n_all) == (32, 32)
    assert placed.weights_bytes == 17 * GB
    assert placed.in_llama == 33  # the output counts as a layer there
    assert placed.left(MEMORY).weights_bytes == GB  # the table of embeddings
    assert placed.left(MEMORY).kv_bytes_per_token == 0


@given(free=st.integers(0, 24 * GB), n_ctx=st.integers(256, 65_536))
def test_what_is_chosen_fits_and_a_layer_more_would_not(free: int, n_ctx: int) -> None:
    """Something is left for what the device computes with besides."""
    card = replace(CARD, free_bytes=free)
    placed = layers_on(card, WEIGHTS, MEMORY, n_ctx)
    assert placed.needed_bytes <= max(0, free - GB)
    if placed.n < placed.n_all:
        more = layers_on(card, WEIGHTS, MEMORY, n_ctx, asked=placed.n + 1)
        assert more.needed_bytes > free - 1.1 * GB


def test_a_longer_context_more_answers_and_adapters_leave_room_for_fewer_layers() -> None:
    card = replace(CARD, free_bytes=12 * GB)
    alone = layers_on(card, WEIGHTS, MEMORY, N_CTX).n
    assert 0 < layers_on(card, WEIGHTS, MEMORY, 8 * N_CTX).n < alone
    assert 0 < layers_on(card, WEIGHTS, MEMORY, N_CTX, 8).n < alone
    assert 0 < layers_on(card, WEIGHTS, MEMORY, N_CTX, other_bytes=2 * GB).n < alone


def test_a_card_that_is_full_gets_none_and_all_stays() -> None:
    placed = layers_on(replace(CARD, free_bytes=GB), WEIGHTS, MEMORY, N_CTX)
    assert (placed.n, placed.in_llama, placed.needed_bytes) == (0, 0, 0)
    assert placed.left(MEMORY) == MEMORY


def test_a_number_that_was_asked_for_is_taken_even_if_it_does_not_fit() -> None:
    """The caller says so; more layers than there are is all of them."""
    small = replace(CARD, free_bytes=GB)
    placed = layers_on(small, WEIGHTS, MEMORY, N_CTX, asked=99)
    assert placed.n == 32
    assert placed.needed_bytes > small.free_bytes


def test_what_lies_on_a_unit_within_the_processor_stays_in_the_machines_memory() -> None:
    placed = layers_on(replace(CARD, shares_ram=True), WEIGHTS, MEMORY, N_CTX)
    assert placed.n == 32
    assert placed.left(MEMORY) == MEMORY


@pytest.mark.parametrize("n", [1, 8, 31])
def test_layers_are_divided_and_nothing_is_lost(n: int) -> None:
    placed = layers_on(CARD, WEIGHTS, MEMORY, N_CTX, asked=n)
    left = placed.left(MEMORY)
    assert left.weights_bytes + placed.weights_bytes == MEMORY.weights_bytes
    assert left.kv_bytes_per_token == MEMORY.kv_bytes_per_token * (32 - n) // 32


def test_a_card_goes_before_the_unit_within_the_processor_and_the_emptier_one_first() -> None:
    unit = Gpu("Vulkan1", "within the processor", 60 * GB, 64 * GB, shares_ram=True)
    full = replace(CARD, name="CUDA1", free_bytes=2 * GB)
    assert gpus_of_ranks([unit, full, CARD], 1) == [CARD]
    assert gpus_of_ranks([unit, full, CARD], 2) == [CARD, full]
    assert gpus_of_ranks([unit], 1) == [unit]
    assert gpus_of_ranks([], 2) == [None, None]


@given(n_ranks=st.integers(1, 9), n_gpus=st.integers(1, 4))
def test_ranks_of_one_machine_share_its_cards_and_no_byte_is_promised_twice(
    n_ranks: int, n_gpus: int
) -> None:
    cards = [replace(CARD, name=f"CUDA{n}", free_bytes=(20 - n) * GB) for n in range(n_gpus)]
    found = [gpu for gpu in gpus_of_ranks(cards, n_ranks) if gpu is not None]
    assert len(found) == n_ranks
    for card in cards:
        promised = sum(gpu.free_bytes for gpu in found if gpu.name == card.name)
        assert promised <= card.free_bytes
        assert bool(promised) == any(gpu.name == card.name for gpu in found)


def test_the_layers_of_shards_are_those_of_the_model() -> None:
    """Whatever rank holds them; norms and their like are on every rank."""
    with open_gguf(DEMO) as model:
        whole, cut = layer_bytes_of(model), plan_cut(model, [2.0, 1.0])
        parts = [layer_bytes(one.tensors, cut.shape.n_layer) for one in sized_shards(model, cut)]
    first, second = parts
    assert len(first.layers) == len(second.layers) == len(whole.layers)
    for one, other, all_of_it in zip(first.layers, second.layers, whole.layers, strict=True):
        assert one > other
        assert all_of_it <= one + other < 1.1 * all_of_it
    assert whole.output <= first.output + second.output < 1.1 * whole.output


def test_a_machine_is_as_fast_as_what_its_card_and_its_processor_read() -> None:
    """All there, none, and a half: the processor's half takes ten times as long."""
    assert mixed_speed(GB, 2 * GB, 100.0, 10.0) == pytest.approx(100)
    assert mixed_speed(GB, 0, 100.0, 10.0) == pytest.approx(10)
    assert mixed_speed(GB, GB / 2, 100.0, 10.0) == pytest.approx(2 / (1 / 100 + 1 / 10))


def test_the_weights_of_a_file_are_told_by_layer() -> None:
    """All but the table of embeddings can lie on a device, and a tied output is a copy of that table."""
    with open_gguf(DEMO) as model:
        weights = layer_bytes_of(model)
        table = model.tensors["token_embd.weight"].size_bytes
        total = sum(tensor.size_bytes for tensor in model.tensors.values())
        is_tied = "output.weight" not in model.tensors
        memory, _ = whole_memory(model)
    assert sum(weights.layers) + weights.output == total - (0 if is_tied else table)
    assert all(weights.layers)
    assert layers_on(CARD, weights, memory, 512).n == len(weights.layers)
