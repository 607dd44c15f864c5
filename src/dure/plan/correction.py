"""What a measured speed is beside the predicted one, and a prediction that is corrected by it. Pure.

Refuses to know where corrections are kept, and of which machines they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dure.plan.performance import Interval, Prediction, TokenTime

__all__ = ["Correction", "corrected"]


@dataclass(frozen=True)
class Correction:
    """The measured speeds of generation and of a prompt, each as a multiple of the predicted one.

    measured: when, since 1970.
    """

    generation: float
    prompt: float
    measured: float


def corrected(prediction: Prediction, correction: Correction) -> Prediction:
    """Return a prediction with the speeds that machines have shown to reach of it.

    All parts of a token's time change alike: a speed does not say which of them was wrong.
    """
    generation, prompt = correction.generation, correction.prompt
    return replace(
        prediction,
        generation=_shorter(prediction.generation, generation),
        prompt=_shorter(prediction.prompt, prompt),
        generation_per_s=_faster(prediction.generation_per_s, generation),
        prompt_per_s=_faster(prediction.prompt_per_s, prompt),
    )


def _shorter(time: TokenTime, factor: float) -> TokenTime:
    return TokenTime(time.compute_s / factor, time.sync_s / factor, time.rest_s / factor)


def _faster(speed: Interval, factor: float) -> Interval:
    return Interval(speed.value * factor, speed.low * factor, speed.high * factor)
