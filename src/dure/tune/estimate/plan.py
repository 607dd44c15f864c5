"""What a run would be, before anything of its model is loaded: if it fits, how long, what it would cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dure.errors import ResourceError
from dure.sizes import compared
from dure.tune.base import be_quiet
from dure.tune.data.generated import is_generated
from dure.tune.data.rows import Row, RowSource, batches_of
from dure.tune.estimate.estimates import MemoryEstimate, Room, TunePlan
from dure.tune.estimate.memory import memory_of, program_bytes, shapes_of
from dure.tune.estimate.room import rooms_of
from dure.tune.estimate.speed import step_times
from dure.tune.loop.learner import arithmetic_of
from dure.tune.loop.losses import Arith, rounded
from dure.tune.loop.prepared import Prepared, prepared_of
from dure.tune.loop.run import evaluated_every
from dure.tune.settings import TuneMethod, TuneSettings

__all__ = ["check_memory", "plan_of", "switch_of"]

SAMPLE, FEW = 64, 16  # steps whose rows are looked at: for a plan, and before a run


class _Needs:
    """What a run needs of memory, as its settings change. sample: rows of some steps."""

    def __init__(self, prepared: Prepared, arithmetic: Arith, sample: list[Row]) -> None:
        self._config, self._arithmetic, self._sample = prepared.config, arithmetic, sample
        self._program = program_bytes(prepared.settings, arithmetic)

    def memory(self, settings: TuneSettings) -> MemoryEstimate:
        """Return the memory of a run."""
        shapes = shapes_of(self._sample, settings)
        return memory_of(self._config, settings, self._arithmetic, shapes, self._program)

    def rooms(self, memory: MemoryEstimate, available_bytes: int | None = None) -> tuple[Room, ...]:
        """Return what it needs and what there is. available_bytes: instead of what is free."""
        return rooms_of(memory, self._arithmetic, available_bytes)

    def fits(self, settings: TuneSettings, available_bytes: int | None = None) -> bool:
        """Return whether a run fits."""
        rooms = self.rooms(self.memory(settings), available_bytes)
        return all(room.is_enough for room in rooms)


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
    needs = _Needs(prepared, arithmetic, [row for rows in sample for row in rows])
    memory = needs.memory(settings)
    rooms = needs.rooms(memory, available_bytes)
    fits = all(room.is_enough for room in rooms)
    switch = "" if fits else switch_of(settings, lambda s: needs.fits(s, available_bytes))
    seconds = _seconds(prepared, source, arithmetic, steps, kept) if fits else None
    return TunePlan(
        prepared.text,
        prepared.notes,
        str(arithmetic.device),
        str(arithmetic.dtype).removeprefix("torch."),
        steps,
        tokens,
        memory,
        rooms,
        switch,
        seconds,
    )


def check_memory(prepared: Prepared, is_resumed: bool) -> None:
    """Check that a run fits, before its model is loaded. is_resumed: it has begun, in its way.

    Raises ResourceError that names the switch with which it does.
    """
    settings = prepared.settings
    source, arithmetic = prepared.source(settings.pack), arithmetic_of(settings.dtype)
    few = 1 if any(map(is_generated, settings.data)) else FEW  # writing examples may take long
    steps = range(min(prepared.steps(source), few))
    needs = _Needs(prepared, arithmetic, [row for step in steps for row in source.rows(step)])
    short = [room for room in needs.rooms(needs.memory(settings)) if not room.is_enough]
    if not short:
        return
    switch = switch_of(settings, needs.fits, keeps_method=is_resumed)
    wanted, free = compared(short[0].needed_bytes, short[0].available_bytes)
    smaller = f"with {switch} it fits" if switch else "use a smaller --ctx, or a smaller model"
    raise ResourceError(
        f"the run needs {wanted} of {short[0].where}, and {free} are free",
        f"{smaller}; --anyway begins in spite of that",
    )


def switch_of(
    settings: TuneSettings, fits: Callable[[TuneSettings], bool], *, keeps_method: bool = False
) -> str:
    """Return the first change with which a run fits, what costs least first; "" if none does."""
    for text, changed in _smaller(settings):
        if keeps_method and changed.method is not settings.method:
            break
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
    kept: Path,
) -> float:
    """Return the seconds of all steps and evaluations."""
    settings = prepared.settings
    samples = sorted((source.rows(step) for step in range(min(steps, SAMPLE))), key=_work(settings))
    rows = samples[len(samples) // 2]
    times = step_times(prepared.config, settings, arithmetic, rows, kept)
    work = _work(settings)
    mean = sum(map(work, samples)) / len(samples)
    passes = steps * times.pass_s * mean / work(rows)
    held_out = source.held_out()
    every = evaluated_every(settings, steps)
    evaluations = math.ceil(steps / every) if held_out else 0
    evaluating = evaluations * times.forward_s * work(held_out) / work(rows)
    return passes + steps * times.update_s + evaluating


def _work(settings: TuneSettings) -> Callable[[Sequence[Row]], int]:
    """Return what counts the tokens that are computed for some rows, with those that fill them up."""

    def work(rows: Sequence[Row]) -> int:
        return sum(
            len(batch) * rounded(max(map(len, batch))) for batch in batches_of(rows, settings.batch)
        )

    return work
