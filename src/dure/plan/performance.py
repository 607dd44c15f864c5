"""Predicts how fast a model runs on devices: arithmetic with few figures, each of which means something.

A token takes as long as its slowest rank reads weights, plus the sums over ranks, plus the rest. A prompt
is bound by multiplying instead, and its sums by the links' bandwidth.
Refuses to know where figures come from: a `Figure` says so itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dure.plan.demand import Demand, Product, ProductKind, RankDemand
from dure.plan.devices import Device, EngineWays, NetworkLink, Processor

__all__ = ["Interval", "Prediction", "TokenTime", "predict"]

_WIRE_BYTES = 34 / 32  # of a number, in blocks of 32 in 8 bits and their scale
_FLOAT_BYTES = 4
_TOP = 256 * 8  # bytes of the best logits of a rank
_UNCROWDED = 4  # nodes that may send to one another at once, and the switch still holds all of it
_LINK_DOUBT = 0.5  # by which part of itself the time of exchanges may be wrong
_MEASURED_SPREAD = 0.06  # what two runs of the same differ by


@dataclass(frozen=True)
class Interval:
    """A number, and what it lies between in four of five cases."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TokenTime:
    """The seconds of a token. sync_s: sums over ranks. rest_s: what ranks do alike, and logits' way."""

    compute_s: float
    sync_s: float
    rest_s: float

    @property
    def total_s(self) -> float:
        """Return all of it."""
        return self.compute_s + self.sync_s + self.rest_s

    @property
    def per_s(self) -> float:
        """Return the tokens a second."""
        return 1 / self.total_s


@dataclass(frozen=True)
class Prediction:
    """What is to be expected: the time of a token in generation and in a prompt, and the speeds."""

    generation: TokenTime
    prompt: TokenTime
    generation_per_s: Interval
    prompt_per_s: Interval


def predict(
    demand: Demand,
    devices: Sequence[Device],
    link: NetworkLink,
    engine: EngineWays,
    *,
    n_prompt: int = 512,
    depth: int = 0,
) -> Prediction:
    """Predict speeds of a model over devices, a rank on each, in the demand's order.

    depth: tokens in the context before. n_prompt: of the prompt whose speed is predicted.
    """
    run = _Run(demand, [one.processor for one in devices], link, engine)
    generation, prompt = run.generation(depth), run.prompt(n_prompt, depth)
    return Prediction(
        generation,
        prompt,
        _interval(generation, _read_doubt(devices), engine),
        _interval(prompt, _prompt_doubt(devices), engine),
    )


def _interval(time: TokenTime, doubt: float, engine: EngineWays) -> Interval:
    """Widen a speed by what its figures may be wrong by, each by the part of the time that it decides."""
    sync = _LINK_DOUBT * time.sync_s / time.total_s
    compute = doubt * (1 - time.sync_s / time.total_s)
    spread = math.sqrt(sync**2 + compute**2 + engine.doubt**2 + _MEASURED_SPREAD**2)
    return Interval(time.per_s, time.per_s / (1 + spread), time.per_s * (1 + spread))


def _read_doubt(devices: Sequence[Device]) -> float:
    return max(
        min(
            (one.basis.doubt for one in d.processor.reads.values()),
            default=d.processor.read.basis.doubt,
        )
        for d in devices
    )


def _prompt_doubt(devices: Sequence[Device]) -> float:
    return max(
        min(
            (one.basis.doubt for one in d.processor.prompts.values()),
            default=max(d.processor.tiled.basis.doubt, d.processor.plain.basis.doubt),
        )
        for d in devices
    )


def _vectors_s(product: Product, processor: Processor) -> float:
    """Return the seconds of a token's vectors before and after matrices; 0 if other figures have them."""
    return product.n_columns * processor.column_s.value if processor.column_s else 0.0


@dataclass(frozen=True)
class _Run:
    """One model on some processors."""

    demand: Demand
    processors: Sequence[Processor]
    link: NetworkLink
    engine: EngineWays

    # ------------------------------------------------------------ a token

    def generation(self, depth: int) -> TokenTime:
        ranks = zip(self.demand.ranks, self.processors, strict=True)
        cut = max(self._read_s(rank, processor, depth) for rank, processor in ranks)
        alike = self._alike_s()
        if self.engine.is_star and self.demand.n_ranks > 1:
            alike += self._logits_of_root_s()
        return TokenTime(cut, self._sums_s(1), alike + self._ends_s())

    def _alike_s(self) -> float:
        """Return the seconds of what every rank does with a token alike: norms, routers, and the like.

        If it was not measured, one device's speed in reading has all of it in it, that of n ranks a part.
        """
        measured = [one.layer_s.value for one in self.processors if one.layer_s]
        if len(measured) == len(self.processors):
            return self.demand.n_layer * max(measured)
        values = self.demand.n_sums * self.demand.n_embd * (1 - 1 / self.demand.n_ranks)
        speed = min(one.read.value for one in self.processors) * self.engine.read_efficiency.value
        return self.engine.uncut.value * values / speed

    def _read_s(self, rank: RankDemand, processor: Processor, depth: int) -> float:
        """Return the seconds in which a rank reads what a token needs, and computes with it."""
        weights = sum(self._product_s(one, processor) for one in rank.products)
        speed = processor.read.value * self.engine.read_efficiency.value
        return weights + rank.kv_bytes(depth) / speed

    def _product_s(self, product: Product, processor: Processor) -> float:
        speed = processor.read_speed(product.type) * self.engine.read_efficiency.value
        if product.kind is ProductKind.EXPERTS:
            speed *= self.engine.mixture_read.value
        return product.n_bytes / speed + _vectors_s(product, processor)

    def _logits_of_root_s(self) -> float:
        """Return the seconds that the root computes logits for all others."""
        root = self.processors[0]
        parts = (self.demand.whole, 1), (self.demand.ranks[0], -1)
        return sum(
            sign * self._product_s(one, root)
            for rank, sign in parts
            for one in rank.products
            if one.kind is ProductKind.OUTPUT
        )

    # ------------------------------------------------------------ between ranks

    def _sums_s(self, n_tokens: int) -> float:
        """Return the seconds of a token's sums, of n_tokens that travel together."""
        n = self.demand.n_ranks
        if n == 1:
            return 0.0
        vector = self.demand.n_embd * _WIRE_BYTES * n_tokens
        ways = [self._exchange_s((n - 1) * vector)]
        if self.engine.two_phase and n > 2:
            ways.append(2 * self._exchange_s((n - 1) * vector / n))
        return self.demand.n_sums * min(ways) / n_tokens

    def _exchange_s(self, n_bytes: float) -> float:
        return self._latency_s + n_bytes / self.link.bytes_per_s.value * self._congestion

    @property
    def _latency_s(self) -> float:
        return self.link.exchange_s.value * self.engine.exchange_factor.value

    @property
    def _congestion(self) -> float:
        crowd = max(0, self.demand.n_ranks - _UNCROWDED)
        return 1 + self.engine.congestion.value * crowd

    def _ends_s(self) -> float:
        """Return the seconds in which embeddings leave the root and logits come, and the engine's own."""
        n, engine = self.demand.n_ranks, self.engine
        if n == 1:
            return engine.token_s.value
        sent = _FLOAT_BYTES * self.demand.n_embd * (n - 1)
        logits = _FLOAT_BYTES * self.demand.n_vocab * (n - 1) / n
        came = 0.0 if engine.is_star else (logits if engine.sends_logits else _TOP * (n - 1))
        return (
            engine.token_s.value
            + self.link.exchange_s.value
            + (sent + came) / self.link.bytes_per_s.value
        )

    # ------------------------------------------------------------ a prompt

    def prompt(self, n_prompt: int, depth: int) -> TokenTime:
        """Return the mean seconds of a token of a prompt."""
        batch = min(n_prompt, self.engine.batch)
        position = depth + n_prompt / 2
        ranks = zip(self.demand.ranks, self.processors, strict=True)
        compute = max(
            sum(self._batched_s(one, processor, batch, n_prompt) for one in rank.products)
            + 2 * rank.attention_values * position / processor.plain.value
            for rank, processor in ranks
        )
        is_single = self.demand.part_of_experts < 1 and not self.engine.batches_experts
        alike = self._alike_s() if is_single else 0.0
        return TokenTime(compute, self._sums_s(batch), alike + self._ends_s() / n_prompt)

    def _batched_s(
        self, product: Product, processor: Processor, batch: int, n_prompt: int
    ) -> float:
        """Return the seconds of a token in products of a batch, with its part of reading the weights."""
        if product.kind is ProductKind.OUTPUT:
            return self._product_s(product, processor) / n_prompt
        is_experts = product.kind is ProductKind.EXPERTS
        if is_experts and not self.engine.batches_experts:
            return self._product_s(product, processor)
        if is_experts and product.type in processor.fews and product.type in processor.reads:
            return self._experts_s(product, processor, batch)
        tiled = self.engine.tiled
        is_tiled = product.has_tiles if tiled is None else product.type in tiled
        speed = processor.prompt_speed(product.type, is_tiled=is_tiled)
        if is_experts and is_tiled:
            speed *= self.engine.mixture_tiled.value
        touched = self._touched(batch) if is_experts else 1.0
        read = touched * product.all_bytes / processor.read_speed(product.type) / batch
        n_weights = self._prompt_weights(product)
        vectors_s = _vectors_s(product, processor) * n_weights / product.n_weights
        return 2 * n_weights / speed + read + vectors_s

    def _experts_s(self, product: Product, processor: Processor, batch: int) -> float:
        """Return the same of experts, each of which has a part of the batch's tokens.

        The time of a weight is measured with one token, a few and many, and is a straight line between.
        """
        part = self.demand.part_of_experts
        n = batch * part / self._touched(batch)
        one, few, many = 1.0, float(processor.n_few), float(processor.n_many)
        bytes_of_weight = product.n_bytes / product.n_weights
        read_s = bytes_of_weight / processor.read_speed(product.type)
        times = (
            read_s,
            few * 2 / processor.fews[product.type].value,
            many * 2 / processor.prompts[product.type].value + read_s,
        )
        low, high = (0, 1) if n < few else (1, 2)
        at = (one, few, many)
        slope = (times[high] - times[low]) / (at[high] - at[low])
        weight_s = (times[low] + slope * (n - at[low])) / n
        n_weights = self._prompt_weights(product)
        return n_weights * (weight_s + _vectors_s(product, processor) / product.n_weights)

    def _touched(self, batch: int) -> float:
        """Return the part of all experts that some token of a batch uses."""
        return float(1 - (1 - self.demand.part_of_experts) ** batch)

    def _prompt_weights(self, product: Product) -> float:
        """Return the weights that most tokens of a prompt are multiplied with."""
        skipped = product.ffn_weights / self.demand.n_layer if self.engine.skips_last else 0.0
        return product.n_weights - skipped
