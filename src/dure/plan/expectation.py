"""What is to be expected of a run of a model on machines: the speeds of a prompt and of an answer. Pure.

Refuses to know how a run is measured, and where machines are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dure.model.gguf import GgufFile
from dure.plan.demand import demand_of
from dure.plan.performance import Interval, predict
from dure.plan.setups import Setup

__all__ = ["Expectation", "Expectations"]


@dataclass(frozen=True)
class Expectation:
    """The tokens a second that are to be expected of one run."""

    generation: Interval
    prompt: Interval


class Expectations:
    """Predicts runs of a model on machines of which all that counts is known, a rank on each.

    Raises CutError or ModelError for a model that cannot run so, or that a plan does not know.
    """

    def __init__(self, model: GgufFile, setup: Setup, shares: Sequence[float]) -> None:
        self.setup, self.shares = setup, tuple(shares)
        features = [one.processor.features for one in setup.devices]
        self._demand = demand_of(model, self.shares, features)

    def of(self, n_prompt: int, n_generate: int, depth: int) -> Expectation:
        """Return what is to be expected of a prompt and of an answer after `depth` tokens."""
        figures = self._demand, self.setup.devices, self.setup.link, self.setup.engine
        middle = depth + n_generate // 2
        return Expectation(
            predict(*figures, depth=middle).generation_per_s,
            predict(*figures, n_prompt=n_prompt, depth=depth).prompt_per_s,
        )
