"""The time of a step, by a short measurement: of the model with a few of its layers, and with some more.

All layers take the same time, so what one takes is the difference. What was measured is kept.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dure.tune.data.rows import Row, batches_of
from dure.tune.loop.learner import blank_model
from dure.tune.loop.losses import Arith, RowLoss
from dure.tune.loop.optimizers import optimizer_of
from dure.tune.settings import TuneSettings
from dure.whole_file import write_whole

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["LearningTimes", "step_times"]

FEW, MORE = 2, 4  # layers
LEAST_S, LEAST_STEPS = 2.0, 3


class LearningTimes(tuple[float, float]):
    """Seconds of a step: all of it, and of its part that does not depend on the rows (the optimizer's)."""

    __slots__ = ()

    @property
    def pass_s(self) -> float:
        """Return the seconds of the passes through the model."""
        return self[0] - self[1]

    @property
    def update_s(self) -> float:
        """Return the seconds in which the weights change."""
        return self[1]


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
        found = LearningTimes(json.loads(path.read_text()))
        with suppress(OSError):  # another user's, perhaps
            os.utime(path)
        return found
    layers = config.num_hidden_layers
    if layers <= MORE:
        found = _timed(config, settings, arithmetic, rows)
    else:
        few = _timed(_with_layers(config, FEW), settings, arithmetic, rows)
        more = _timed(_with_layers(config, MORE), settings, arithmetic, rows)
        times = (layers - FEW) / (MORE - FEW)
        found = LearningTimes(a + times * max(0.0, b - a) for a, b in zip(few, more, strict=True))
    with suppress(OSError):
        write_whole(path, json.dumps(list(found)).encode())
    return found


def _timed(
    config: PretrainedConfig, settings: TuneSettings, arithmetic: Arith, rows: Sequence[Row]
) -> LearningTimes:
    model = blank_model(config, settings, arithmetic)
    optimizer, loss = optimizer_of(model, settings), RowLoss(model, arithmetic, pack=settings.pack)
    whole, update = list[float](), list[float]()
    while len(whole) <= LEAST_STEPS or sum(whole) < LEAST_S:
        began = time.perf_counter()
        for batch in batches_of(rows, settings.batch):
            loss.of(loss.batch(batch)).backward()
        _finish(arithmetic)
        passed = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _finish(arithmetic)
        ended = time.perf_counter()
        whole.append(ended - began)
        update.append(ended - passed)
    return LearningTimes((statistics.median(whole[1:]), statistics.median(update[1:])))


def _finish(arithmetic: Arith) -> None:
    if arithmetic.device.type == "cuda":
        torch.cuda.synchronize()


def _with_layers(config: PretrainedConfig, n: int) -> PretrainedConfig:
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
