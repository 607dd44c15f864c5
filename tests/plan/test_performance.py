"""Predicted speeds behave as machines do: better figures never make anything slower, and parts add up."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dure.plan.demand import Demand, ProductKind, RankDemand, demand_of
from dure.plan.devices import Device, EngineWays, NetworkLink
from dure.plan.figures import Basis, Figure
from dure.plan.machines import device_named, devices, engine_named, link_named, links
from dure.plan.outline import QUANTIZATIONS, outline_named, outlined_model
from dure.plan.performance import Prediction, predict

PI, ETHERNET = device_named("pi5-8gb"), link_named("1gbe")
DURE = engine_named("dure")
ENGINES = [
    DURE,
    *map(engine_named, ("llama.cpp", "llama.cpp 2024")),
    *map(engine_named, ("distributed-llama", "distributed-llama star")),
]
DEMANDS: dict[tuple[str, str, int], Demand] = {}
factors = st.floats(1.0, 50.0)
depths, prompts = st.integers(0, 8192), st.integers(1, 4096)


def demand(name: str, quantization: str, n_ranks: int) -> Demand:
    key = (name, quantization, n_ranks)
    if key not in DEMANDS:
        outline = outline_named(name)
        assert outline is not None
        model = outlined_model(name, outline, quantization)
        features = [PI.processor.features] * n_ranks
        DEMANDS[key] = demand_of(model, [1.0] * n_ranks, features)
    return DEMANDS[key]


demands = st.builds(
    demand,
    st.sampled_from(["qwen3:0.6b", "llama3.2:1b", "qwen3:30b-a3b"]),
    st.sampled_from(["Q4_0", "Q4_K_M", "2.9bpw"]),
    st.integers(1, 4),
)


def times(figure: Figure, factor: float) -> Figure:
    return replace(figure, value=figure.value * factor)


def on(
    what: Demand,
    device: Device = PI,
    link: NetworkLink = ETHERNET,
    engine: EngineWays = DURE,
    **more: int,
) -> Prediction:
    return predict(what, [device] * what.n_ranks, link, engine, **more)


def is_no_slower(better: Prediction, than: Prediction) -> bool:
    tiny = 1 + 1e-9
    return (
        better.generation.per_s * tiny >= than.generation.per_s
        and better.prompt.per_s * tiny >= than.prompt.per_s
    )


@settings(deadline=None, max_examples=50)
@given(demands, factors, factors, st.sampled_from(ENGINES), depths, prompts)
def test_more_bandwidth_or_faster_products_never_predict_less_speed(
    what: Demand, read: float, multiply: float, engine: EngineWays, depth: int, n_prompt: int
) -> None:
    """For every engine, model, number of ranks and context."""
    processor = PI.processor
    faster = replace(
        processor,
        read=times(processor.read, read),
        tiled=times(processor.tiled, multiply),
        plain=times(processor.plain, multiply),
    )
    before = on(what, engine=engine, depth=depth, n_prompt=n_prompt)
    after = on(what, replace(PI, processor=faster), engine=engine, depth=depth, n_prompt=n_prompt)
    assert is_no_slower(after, before)


@settings(deadline=None, max_examples=50)
@given(demands, factors, factors, st.sampled_from(ENGINES), prompts)
def test_a_faster_link_never_predicts_less_speed(
    what: Demand, bandwidth: float, quicker: float, engine: EngineWays, n_prompt: int
) -> None:
    """More bytes a second, or a shorter exchange."""
    faster = replace(
        ETHERNET,
        bytes_per_s=times(ETHERNET.bytes_per_s, bandwidth),
        exchange_s=times(ETHERNET.exchange_s, 1 / quicker),
    )
    before = on(what, engine=engine, n_prompt=n_prompt)
    assert is_no_slower(on(what, link=faster, engine=engine, n_prompt=n_prompt), before)


def smaller(rank: RankDemand, factor: float) -> RankDemand:
    """The same products and KV cache, in fewer bytes."""
    products = tuple(
        dataclasses.replace(one, n_bytes=one.n_bytes / factor, all_bytes=one.all_bytes / factor)
        for one in rank.products
    )
    cache = int(rank.memory.kv_bytes_per_token / factor)
    memory = dataclasses.replace(rank.memory, kv_bytes_per_token=cache)
    return dataclasses.replace(rank, products=products, memory=memory)


@settings(deadline=None, max_examples=50)
@given(demands, factors, st.sampled_from(ENGINES), depths, prompts)
def test_fewer_bytes_never_predict_less_speed(
    what: Demand, factor: float, engine: EngineWays, depth: int, n_prompt: int
) -> None:
    """For every engine, model, number of ranks and context, in generation and in prompts."""
    ranks = tuple(smaller(rank, factor) for rank in what.ranks)
    small = dataclasses.replace(what, ranks=ranks, whole=smaller(what.whole, factor))
    before = on(what, engine=engine, depth=depth, n_prompt=n_prompt)
    assert is_no_slower(on(small, engine=engine, depth=depth, n_prompt=n_prompt), before)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(["qwen3:0.6b", "llama3.2:1b"]), st.integers(1, 4), st.data())
def test_fewer_bits_of_a_type_are_never_generated_slower(
    name: str, n_ranks: int, data: st.DataObject
) -> None:
    """Of two numbers of bits with the same kind of types, the smaller one is at least as fast.

    Of a mixture a token reads some weights only, so fewer bits of all may be more bytes of a token.
    """
    more = data.draw(st.integers(46, 85))
    fewer = data.draw(st.integers(45, more))
    engine = data.draw(st.sampled_from(ENGINES))
    small, large = (demand(name, f"{bits / 10}bpw", n_ranks) for bits in (fewer, more))
    faster, slower = (on(one, engine=engine).generation.per_s for one in (small, large))
    assert faster * (1 + 1e-9) >= slower


@settings(deadline=None, max_examples=50)
@given(demands, depths, st.integers(0, 8192))
def test_a_longer_context_is_never_faster(what: Demand, depth: int, more: int) -> None:
    """Each token reads the KV cache of those before it."""
    assert is_no_slower(on(what, depth=depth), on(what, depth=depth + more))


@pytest.mark.parametrize("name", ["qwen3:8b", "qwen3:30b-a3b", "gemma3:12b", "gpt-oss:20b"])
def test_more_boards_never_have_less_memory_for_a_model(name: str) -> None:
    """What the fullest of n + 1 equal boards must hold is no more than that of n."""
    quantization = "MXFP4" if name == "gpt-oss:20b" else "Q4_0"
    fullest = [
        max(rank.memory.total_bytes(4096) for rank in demand(name, quantization, n).ranks)
        for n in range(1, 9)
    ]
    assert fullest == sorted(fullest, reverse=True)


def test_the_parts_of_a_token_add_up() -> None:
    """One rank has no sums; several have, and read less each."""
    alone, four = on(demand("qwen3:8b", "Q4_0", 1)), on(demand("qwen3:8b", "Q4_0", 4))
    for found in (alone, four):
        time = found.generation
        assert time.total_s == time.compute_s + time.sync_s + time.rest_s
        assert found.generation_per_s.low < time.per_s < found.generation_per_s.high
    assert alone.generation.sync_s == 0 < four.generation.sync_s
    assert four.generation.compute_s < alone.generation.compute_s / 3


def test_what_was_measured_wins() -> None:
    """A speed of one type of a node counts for that type, and narrows the interval."""
    what = demand("qwen3:8b", "Q8_0", 1)
    measured = Figure(2 * PI.processor.read.value, Basis.MEASURED, "this node", "2026-11")
    processor = replace(PI.processor, reads={"Q8_0": measured})
    before, after = on(what), on(what, replace(PI, processor=processor))
    assert after.generation.compute_s == pytest.approx(before.generation.compute_s / 2, rel=0.01)
    widths = [one.generation_per_s.high / one.generation_per_s.value for one in (before, after)]
    assert widths[1] < widths[0]


def test_bytes_of_a_token_are_those_that_are_known() -> None:
    """At 4.5 bits 8B reads 4.22 GB, and of the mixture's 16 GB a token reads 1.71 (2.7 bits: 1.02)."""
    assert demand("llama3.1:8b", "Q40", 1).whole.read_bytes == pytest.approx(4.22e9, rel=0.01)
    assert demand("llama3.2:3b", "Q40", 1).whole.read_bytes == pytest.approx(1.81e9, rel=0.01)
    assert demand("llama3.3:70b", "Q40", 1).whole.read_bytes == pytest.approx(39.1e9, rel=0.01)
    assert demand("qwen3:30b-a3b", "Q40", 1).whole.read_bytes == pytest.approx(1.71e9, rel=0.03)
    assert demand("qwen3:30b-a3b", "2.7bpw", 1).whole.read_bytes == pytest.approx(1.02e9, rel=0.06)


def test_the_catalogue_says_of_every_figure_where_it_is_from() -> None:
    """Basis, source and month; every device's engine is known."""
    for device in devices().values():
        processor = device.processor
        figures = [device.memory, device.system, device.watts, device.price, device.hourly]
        figures += [processor.read, processor.tiled, processor.plain]
        assert device.price or device.hourly
        assert device.link in links()
        assert engine_named(device.engine)
        for figure in filter(None, figures):
            assert figure.source
            assert len(figure.date) == len("2026-11")


def test_every_quantization_is_larger_than_the_one_before() -> None:
    """A plan tries the smallest first."""
    sizes = [demand("qwen3:8b", one, 1).whole.memory.weights_bytes for one in QUANTIZATIONS]
    assert sizes == sorted(sizes)


def test_layers_and_vectors_that_were_measured_are_what_ranks_do_alike() -> None:
    """A layer takes its time on every rank, however many there are; a vector's columns are cut."""
    layer_s, column_s = 1e-4, 1e-8
    figures = [Figure(one, Basis.MEASURED, "this node", "2026-11") for one in (layer_s, column_s)]
    bare = replace(PI.processor, layer_s=replace(figures[0], value=1e-12))
    processor = replace(PI.processor, layer_s=figures[0], column_s=figures[1])
    for n_ranks in (1, 4):
        what = demand("qwen3:8b", "Q4_0", n_ranks)
        before = on(what, replace(PI, processor=bare)).generation
        after = on(what, replace(PI, processor=processor)).generation
        assert after.rest_s - before.rest_s == pytest.approx(36 * layer_s, rel=1e-6)
        columns = max(sum(one.n_columns for one in rank.products) for rank in what.ranks)
        assert after.compute_s - before.compute_s == pytest.approx(columns * column_s, rel=1e-6)


def test_experts_of_a_prompt_have_the_speed_of_few_tokens_at_once() -> None:
    """Of 128 experts eight are used: each has 16 of 256 tokens; the more it has, the quicker each is."""
    what = demand("qwen3:30b-a3b", "Q4_0", 1)
    figure = partial(Figure, basis=Basis.MEASURED, source="this node", date="2026-11")
    measured = replace(
        PI.processor,
        reads={"Q4_0": figure(10e9)},
        prompts={"Q4_0": figure(200e9)},
        n_few=16,
        n_many=256,
    )
    slow = replace(measured, fews={"Q4_0": figure(50e9)})
    quick = replace(measured, fews={"Q4_0": figure(100e9)})
    engine = engine_named("dure")
    (experts,) = (one for one in what.whole.products if one.kind is ProductKind.EXPERTS)
    weights = experts.n_weights - experts.ffn_weights / what.n_layer
    times = [on(what, replace(PI, processor=one), n_prompt=256).prompt for one in (slow, quick)]
    saved_s = 2 * weights * (1 / 50e9 - 1 / 100e9)
    assert engine.batch >= 256
    assert times[0].compute_s - times[1].compute_s == pytest.approx(saved_s, rel=1e-3)
    lengths = [on(what, replace(PI, processor=slow), n_prompt=n).prompt for n in (16, 64, 256, 512)]
    each = [one.compute_s for one in lengths]
    assert each == sorted(each, reverse=True)


def test_a_short_prompt_reads_the_weights_for_few_tokens() -> None:
    """Of one token it is as slow as generation, nearly; the longer it is the less reading counts."""
    what = demand("qwen3:8b", "Q4_0", 1)
    times = [on(what, n_prompt=n).prompt for n in (1, 16, 256)]
    assert times[0].total_s > times[1].total_s > times[2].total_s
    assert times[0].compute_s > 0.8 * on(what).generation.compute_s
