"""What to buy or rent so that a model runs as fast as wished, and which model runs well on what one has.

Tries setups of the catalogue, each with the finest types of weights that are fast enough. Refuses to know
how options are shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dure.errors import DureError
from dure.model.gguf import GgufFile
from dure.plan.demand import demand_of
from dure.plan.devices import Device
from dure.plan.machines import device_named, devices
from dure.plan.outline import outline_named
from dure.plan.outlook import Outlook, Task, outlook_of
from dure.plan.setups import Setup, setup_of

__all__ = ["Market", "Offer", "best_models", "options_of"]

COUNTS = (1, 2, 3, 4, 6, 8)  # of a machine that one would buy
FINE_ENOUGH = ("Q8_0", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")  # what is tried, the finest first
FOR_MODELS = ("Q4_K_M", "Q3_K_M")
YEAR = 12  # months, over which options are compared
_NEVER = math.inf
_COARSE = 0.8  # what is left of a model's ability in the coarsest types that are tried

ModelOf = Callable[[str], GgufFile]
"""Given a quantization, a model's header in it."""


@dataclass(frozen=True)
class Market:
    """What one has, may spend and wants. have: machines that are there, by name. hours: of use in a month.

    kwh_price: of electricity, in dollars.
    """

    have: Mapping[str, int]
    budget: float
    tokens_per_s: float
    hours: float
    kwh_price: float


@dataclass(frozen=True)
class Offer:
    """A model on a setup. buy: what is bought or rented for it. price: of that, with what connects it.

    month: dollars of a month's power and rent. meets: whether it is fast enough, and runs at all.
    """

    model: str
    quantization: str
    outlook: Outlook
    buy: Mapping[str, int]
    price: float
    month: float
    meets: bool

    @property
    def tokens_per_s(self) -> float:
        """Return the speed of generation; 0 if it does not run."""
        found = self.outlook
        return found.prediction.generation.per_s if found.prediction and found.runs else 0.0

    @property
    def year(self) -> float:
        """Return the dollars of the first year."""
        return self.price + YEAR * self.month

    def break_even_months(self, rented: Offer | None) -> float | None:
        """Return after how many months it has cost less than a rented one.

        Infinite if it never does; None if it is rented itself, or either is not fast enough.
        """
        if rented is None or self.outlook.setup.hourly or not self.meets:
            return None
        saved = rented.month - self.month
        return self.price / saved if saved > 0 else _NEVER


# ---------------------------------------------------------------- for a model


def options_of(name: str, model_of: ModelOf, market: Market, task: Task) -> list[Offer]:
    """Return the ways to run a model: of each kind of machine the cheapest that is fast enough.

    Those that meet the wish first, by what they cost in a year; then the fastest of each other kind.
    """
    best = [
        _best_of_kind([_option(name, model_of, setup, buy, market, task) for setup, buy in kind])
        for kind in _kinds(market)
        if kind
    ]
    return sorted(
        best, key=lambda one: (not one.meets, one.year if one.meets else -one.tokens_per_s)
    )


def _best_of_kind(options: Sequence[Offer]) -> Offer:
    meeting = [one for one in options if one.meets]
    if meeting:
        return min(meeting, key=lambda one: one.year)
    return max(options, key=lambda one: one.tokens_per_s)


def _kinds(market: Market) -> Iterator[list[tuple[Setup, Mapping[str, int]]]]:
    """Yield, for what one has and for each machine of the catalogue, the setups that the budget allows."""
    if market.have:
        yield [(setup_of(market.have), {})]
    for name, device in devices().items():
        yield list(_of_kind(name, device, market))


def _of_kind(
    name: str, device: Device, market: Market
) -> Iterator[tuple[Setup, Mapping[str, int]]]:
    """Yield setups with more and more of a machine: beside those that are there, if they can work so."""
    joins = market.have and device.engine == "dure" and not device.is_rented
    can_join = joins and all(device_named(one).engine == "dure" for one in market.have)
    for n in COUNTS if device.engine == "dure" and not device.is_rented else (1,):
        counts = dict(market.have) if can_join else {}
        counts[name] = counts.get(name, 0) + n
        setup = setup_of(counts)
        if _price(setup, market.have if can_join else {}) <= market.budget:
            yield setup, {name: n}


def _price(setup: Setup, have: Mapping[str, int]) -> float:
    """Return what is to be paid for a setup if some of it is there."""
    return setup.price - (setup_of(have).price if have else 0.0)


def _option(
    name: str,
    model_of: ModelOf,
    setup: Setup,
    buy: Mapping[str, int],
    market: Market,
    task: Task,
    quantizations: Sequence[str] = FINE_ENOUGH,
) -> Offer:
    """Return a setup with the finest types that are fast enough, or else with the fastest that run."""
    outline = outline_named(name)
    if outline is not None and outline.native:
        quantizations = (outline.native,)
    is_added = sum(buy.values()) < len(setup.devices)
    price = 0.0 if not buy else _price(setup, market.have if is_added else {})
    month = setup.cost_per_hour(market.kwh_price) * market.hours
    found: list[Offer] = []
    for quantization in quantizations:
        try:
            outlook = outlook_of(model_of(quantization), setup, task)
        except DureError:
            continue  # its rows have no blocks for these types
        option = Offer(name, quantization, outlook, buy, price, month, meets=False)
        if option.tokens_per_s >= market.tokens_per_s:
            return Offer(name, quantization, outlook, buy, price, month, meets=True)
        found.append(option)
    return max(found, key=lambda one: one.tokens_per_s)


# ---------------------------------------------------------------- for what one has


def best_models(models: Mapping[str, ModelOf], market: Market, task: Task) -> list[Offer]:
    """Return the models that run well, the most able first, each in the finest types that do.

    Of several setups for these the cheapest counts.

    How able a model is, is guessed from its size: the geometric mean of all its weights and of those that a
    token uses; less in types of three bits.
    """
    setups = [pair for kind in _kinds(market) for pair in kind if not pair[0].hourly]
    setups = [pair for pair in setups if not pair[1] or not market.have or _is_joined(pair)]
    setups.sort(key=lambda pair: pair[0].price)
    found: list[tuple[float, Offer]] = []
    for name, model_of in models.items():
        options = (
            _option(name, model_of, setup, buy, market, task, FOR_MODELS) for setup, buy in setups
        )
        best = _finest(one for one in options if one.meets)
        if best is not None:
            coarse = _COARSE if best.quantization == FOR_MODELS[-1] else 1.0
            found.append((coarse * _ability(model_of(FOR_MODELS[0])), best))
    return [option for _, option in sorted(found, key=lambda pair: -pair[0])]


def _finest(options: Iterable[Offer]) -> Offer | None:
    """Return the first in the finest types that any of them has, of which the first offers are cheapest."""
    best: Offer | None = None
    for one in options:
        if one.quantization == FOR_MODELS[0]:
            return one
        best = best or one
    return best


def _is_joined(pair: tuple[Setup, Mapping[str, int]]) -> bool:
    """Return whether a setup uses what one has; a setup of its own would leave that unused."""
    setup, buy = pair
    return len(setup.devices) > sum(buy.values())


def _ability(model: GgufFile) -> float:
    """Return the geometric mean of all weights and of those that a token uses."""
    whole = demand_of(model).whole
    n_used = sum(product.n_weights for product in whole.products)
    return math.sqrt(n_used * sum(tensor.n_elements for tensor in model.tensors.values()))
