"""What a run would be, before anything of its model is loaded: if it fits, how long, what it would cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from dure.hardware.probe import probe
from dure.tune.base import be_quiet
from dure.tune.data.rows import RowSource
from dure.tune.estimate.estimates import MemoryEstimate, TunePlan
from dure.tune.estimate.memory import memory_of, program_bytes, shapes_of
from dure.tune.estimate.speed import step_times
from dure.tune.loop.learner import arithmetic_of
from dure.tune.loop.losses import Arith
from dure.tune.loop.prepared import Prepared, prepared_of
from dure.tune.loop.run import EVALUATIONS
from dure.tune.settings import TuneMethod, TuneSettings

__all__ = ["plan_of", "switch_of"]

SAMPLE = 64  # steps whose rows are looked at
FORWARD = 1 / 3  # of the time of a pass, which also goes backward


def plan_of(settings: TuneSettings, kept: Path, *, available_bytes: int | None = None) -> TunePlan:
    """Return what a run would be. kept: the folder of measurements. available_bytes: what is free.

    Raises as the run itself does.
    """
    be_quiet()
    settings = settings.checked()
    prepared = prepared_of(settings)
    source = prepared.source(settings.pack)
    arithmetic = arithmetic_of(settings.dtype)
    steps = prepared.steps(source)
    sample = [source.rows(step) for step in range(min(steps, SAMPLE))]
    tokens = round(sum(len(row) for rows in sample for row in rows) / len(sample) * steps)
    program = program_bytes(settings, arithmetic)

    def memory(of: TuneSettings) -> MemoryEstimate:
        rows = [row for step in sample for row in step]
        return memory_of(prepared.config, of, arithmetic, shapes_of(rows, of), program)

    found = memory(settings)
    available = _available(arithmetic) if available_bytes is None else available_bytes
    needed = _needed(found, arithmetic)
    fits = needed <= available
    switch = (
        "" if fits else switch_of(settings, lambda s: _needed(memory(s), arithmetic) <= available)
    )
    seconds = _seconds(prepared, source, arithmetic, steps, tokens, kept) if fits else None
    return TunePlan(
        prepared.text,
        prepared.notes,
        str(arithmetic.device),
        str(arithmetic.dtype).removeprefix("torch."),
        steps,
        tokens,
        found,
        needed,
        available,
        switch,
        seconds,
    )


def _needed(found: MemoryEstimate, arithmetic: Arith) -> int:
    return found.peak_bytes if arithmetic.device.type == "cpu" else found.model_bytes


def _available(arithmetic: Arith) -> int:
    if arithmetic.device.type == "cpu":
        return probe().available_bytes
    return int(torch.cuda.mem_get_info()[0])


def switch_of(settings: TuneSettings, fits: Callable[[TuneSettings], bool]) -> str:
    """Return the first change with which a run fits, what costs least first; "" if none does."""
    for text, changed in _smaller(settings):
        if fits(changed):
            return text
    return ""


def _smaller(settings: TuneSettings) -> Iterator[tuple[str, TuneSettings]]:
    now, said = settings, list[str]()
    if now.batch > 1:
        said.append(f"--batch 1 --accumulate {now.rows_per_step}")
        now = replace(now, batch=1, accumulate=now.rows_per_step)
        yield " ".join(said), now
    if not now.checkpointing:
        said.append("--checkpointing")
        now = replace(now, checkpointing=True)
        yield " ".join(said), now
    if now.method is TuneMethod.FULL:
        said.append("--lora")
        yield " ".join(said), replace(now, method=TuneMethod.LORA)


def _seconds(
    prepared: Prepared,
    source: RowSource,
    arithmetic: Arith,
    steps: int,
    tokens: int,
    kept: Path,
) -> float:
    """Return the seconds of all steps and evaluations."""
    settings, rows = prepared.settings, source.rows(0)
    times = step_times(prepared.config, settings, arithmetic, rows, kept)
    per_token = times.pass_s / sum(map(len, rows))
    evaluated = sum(map(len, source.held_out())) * FORWARD
    evaluations = steps // settings.eval_every if settings.eval_every else min(EVALUATIONS, steps)
    return steps * times.update_s + per_token * (tokens + evaluations * evaluated)
