"""The learning rate of each step: a warm-up, then a fall."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dure.tune.settings import Schedule

__all__ = ["LearningRate"]

FLOOR = 0.1  # of the peak, where a cosine ends
PLATEAU_FLOOR = 0.02
FALLING = 0.3  # of the steps, after a plateau


@dataclass(frozen=True)
class LearningRate:
    """The rates of a run. peak: the highest. warmup: a share of the steps below 1, else steps."""

    peak: float
    steps: int
    warmup: float
    schedule: Schedule

    @property
    def warmup_steps(self) -> int:
        """Return the steps in which the rate rises."""
        steps = self.warmup * self.steps if self.warmup < 1 else self.warmup
        return min(math.ceil(steps), self.steps)

    def at(self, step: int) -> float:
        """Return the rate of a step, which counts from 0."""
        rising = self.warmup_steps
        if step < rising:
            return self.peak * (step + 1) / rising
        if self.schedule is Schedule.PLATEAU:
            left = (self.steps - step) / max(1, int(FALLING * self.steps))
            return self.peak * max(PLATEAU_FLOOR, min(1.0, left))
        done = (step - rising) / max(1, self.steps - rising)
        return self.peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))
