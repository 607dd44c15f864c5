"""The time of a step, by a short measurement: of the model with a few of its layers, and with some more.

All layers take the same time, so what one takes is the difference. The two are measured by turns, so that
other programs slow both, and differ by enough layers that an error of one is not multiplied. What was
measured is kept.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dure.tune.data.rows import Row, batches_of
from dure.tune.loop.learner import blank_model
from dure.tune.loop.losses import Arith, RowLoss
from dure.tune.loop.optimizers import optimizer_of
from dure.tune.settings import TuneSettings
from dure.whole_file import write_whole

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["LearningTimes", "TimedStep", "layers_of", "step_times", "whole_of", "with_layers"]

FEW = 2  # layers
MOST_TIMES = 3  # by which the difference is multiplied
LEAST_S, LEAST_STEPS = 4.0, 3


@dataclass(frozen=True)
class LearningTimes:
    """Seconds of a step. pass_s: of its passes through the model. update_s: in which the weights change,
    which does not depend on the rows. forward_s: of evaluating the same rows.
    """

    pass_s: float
    update_s: float
    forward_s: float


def step_times(
    config: PretrainedConfig,
    settings: TuneSettings,
    arithmetic: Arith,
    rows: Sequence[Row],
    kept: Path,
) -> LearningTimes:
    """Return the time of a step on these rows, on this machine. kept: the folder of measurements."""
    path = kept / f"{_key(config, settings, arithmetic, rows)}.json"
    with suppress(OSError, ValueError, TypeError):
        found = LearningTimes(*json.loads(path.read_text()))
        with suppress(OSError):  # another user's, perhaps
            os.utime(path)
        return found
    layers = config.num_hidden_layers
    counts = layers_of(layers)
    step = TimedStep(with_layers(config, counts[-1]), settings, arithmetic, rows)
    turns = list(_by_turns(step, counts))
    found = LearningTimes(*(whole_of([[o[i] for o in t] for t in turns], layers) for i in range(3)))
    with suppress(OSError):
        write_whole(path, json.dumps(astuple(found)).encode())
    return found


def _by_turns(step: TimedStep, counts: Sequence[int]) -> Iterator[list[tuple[float, float, float]]]:
    """Yield what a step takes with these numbers of layers, by turns; before, it gets warm."""
    for n in counts:
        step.timed(n)
    ends, turns = time.perf_counter() + LEAST_S, 0
    while turns < LEAST_STEPS or time.perf_counter() < ends:
        yield [step.timed(n) for n in counts]
        turns += 1


def layers_of(layers: int) -> tuple[int, ...]:
    """Return the numbers of layers that are measured: few and more, or all of them."""
    more = max(FEW + 2, FEW + math.ceil((layers - FEW) / MOST_TIMES))
    return (FEW, more) if more < layers else (layers,)


def whole_of(turns: Sequence[Sequence[float]], layers: int) -> float:
    """Return the seconds of a whole model. turns: each what the numbers of `layers_of` took."""
    few = statistics.median(turn[0] for turn in turns)
    if len(counts := layers_of(layers)) == 1:
        return few
    difference = statistics.median(turn[-1] - turn[0] for turn in turns)
    return few + (layers - FEW) / (counts[-1] - FEW) * max(0.0, difference)


class TimedStep:
    """A step that is done again and again, by a model or by its first layers alone. clock: in seconds."""

    def __init__(
        self,
        config: PretrainedConfig,
        settings: TuneSettings,
        arithmetic: Arith,
        rows: Sequence[Row],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self._model = blank_model(config, settings, arithmetic)
        self._optimizer = optimizer_of(self._model, settings)
        self._loss = RowLoss(self._model, arithmetic, pack=settings.pack)
        self._batches = list(batches_of(rows, settings.batch))
        self._arithmetic = arithmetic
        lists = (one for one in self._model.modules() if isinstance(one, nn.ModuleList))
        self._layers: Any = next(lists)  # the first, in which all others are
        self._all = dict(self._layers._modules)

    def _use(self, n: int) -> None:
        self._layers._modules = dict(islice(self._all.items(), n))

    def timed(self, n_layers: int) -> tuple[float, float, float]:
        """Do it; return the seconds of `LearningTimes`."""
        self._use(n_layers)
        times = [self._now()]
        for batch in self._batches:
            self._loss.of(self._loss.batch(batch)).backward()
        times.append(self._now())
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        times.append(self._now())
        self._model.eval()
        with torch.no_grad():
            for batch in self._batches:
                self._loss.of(self._loss.batch(batch)).item()
        self._model.train()
        times.append(self._now())
        learned, updated, evaluated = (b - a for a, b in pairwise(times))
        return learned, updated, evaluated

    def _now(self) -> float:
        if self._arithmetic.device.type == "cuda":
            torch.cuda.synchronize()
        return self._clock()


def with_layers(config: PretrainedConfig, n: int) -> PretrainedConfig:
    """Return a configuration with fewer layers."""
    fewer = copy.deepcopy(config)
    if getattr(fewer, "layer_types", None):
        fewer.layer_types = fewer.layer_types[:n]
    fewer.num_hidden_layers = n
    return fewer


def _key(
    config: PretrainedConfig, settings: TuneSettings, arithmetic: Arith, rows: Sequence[Row]
) -> str:
    facts = [
        config.to_dict(),
        [settings.method, settings.rank, settings.batch, settings.state, settings.checkpointing],
        [str(arithmetic), torch.get_num_threads(), torch.__version__, platform.node()],
        [(len(row), row.weight) for row in rows],
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:24]
