"""One step while it is being made: gradients come one by one, threads compute, the end decides.

With a largest norm the scale of the gradients is known only after the last of them. If the step before
was not clipped, moments move as gradients come, and are corrected in the end if this one is clipped after
all (`native/adamw.c` says why that is exact); otherwise only squares are summed. Without a largest norm the
whole update of a parameter runs when its gradient comes. Which of these is chosen depends on finished steps
alone, never on how quick threads are: so a resumed run repeats every bit.

The norm is that of all processes which divide parameters among them: their squares are added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dure.tune.optimizer.kept import Kept
from dure.tune.optimizer.native import Pass, Passes, StepStruct

__all__ = ["Round", "StepOutcome", "Threads", "clip_scale", "constants"]

Group = Mapping[str, Any]
BATCH = 1 << 18  # values of small parameters that are handed to threads together
_SMALLEST_EPS = 1e-30  # where roots are approximate: zero over zero stays zero


class Threads:
    """Threads that do one piece of work together, while the caller goes on or helps."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._pool = ThreadPoolExecutor(n, thread_name_prefix="dure-adamw")

    def n_for(self, n_parts: int) -> int:
        """Return how many threads are busy with work of this many parts."""
        return min(self.n, n_parts)

    def begin(self, work: Callable[[], None], n_threads: int) -> list[Future[None]]:
        """Begin work on some threads."""
        return [self._pool.submit(work) for _ in range(n_threads)]

    def do(self, work: Passes) -> None:
        """Do work on all threads, of which this is one."""
        helpers = [self._pool.submit(work.do) for _ in range(self.n_for(work.n_parts) - 1)]
        work.do()
        for helper in helpers:
            helper.result()


def constants(group: Group, step: int, state: str, scale: float = 1.0) -> StepStruct:
    """Return the constants of a step of this number, from 1 on, as torch.optim.AdamW has them."""
    lr, eps = float(group["lr"]), float(group["eps"])
    beta1, beta2 = (float(beta) for beta in group["betas"])
    before = 1 - beta2 ** (step - 1)
    return StepStruct(
        beta1=beta1,
        beta2=beta2,
        rest1=1 - beta1,
        rest2=1 - beta2,
        step_size=lr / (1 - beta1**step),
        root_scale=1 / math.sqrt(1 - beta2**step),
        root_scale_before=1 / math.sqrt(before) if before else 1,
        eps=eps if state == "fp32" else max(eps, _SMALLEST_EPS),
        decay=1 - lr * float(group["weight_decay"]),
        scale=scale,
    )


def clip_scale(norm: float, max_norm: float) -> float:
    """Return what gradients are multiplied with, as torch.nn.utils.clip_grad_norm_ does."""
    return min(1.0, max_norm / (norm + 1e-6))


@dataclass(slots=True)
class _Entry:
    kept: Kept
    group: Group
    gradient: Tensor | None  # held until it has been read
    ready: Any  # an event of a GPU, or None
    action: Pass
    squares: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What became of a step. norm: of all gradients, NaN if it was not asked for."""

    norm: float
    is_clipped: bool
    is_skipped: bool


class Round:
    """A step that is being made.

    begun: what a gradient's coming sets going. state: the format of the moments. sharing: the groups of
    processes among which parameters are divided, with their device, in an order that all processes have.
    """

    def __init__(
        self,
        threads: Threads,
        state: str,
        max_norm: float | None,
        is_calm: bool,
        sharing: Sequence[tuple[tuple[Any, ...], torch.device]] = (),
    ) -> None:
        """is_calm: the step before was not clipped, so this one will hardly be."""
        self._threads, self._state, self._max_norm = threads, state, max_norm
        self._sharing = sharing
        self._action = Pass.WHOLE if max_norm is None else Pass.EARLY if is_calm else Pass.SQUARES
        self._entries: dict[int, _Entry] = {}
        self._waiting: list[_Entry] = []
        self._running: list[tuple[list[_Entry], Passes, list[Future[None]]]] = []
        self.unfinished_passes: set[int] = set()

    def has(self, kept: Kept) -> bool:
        """Tell whether a parameter's gradient has come."""
        return id(kept) in self._entries

    @property
    def has_moved_weights(self) -> bool:
        """Whether weights have moved already: nothing can undo this step."""
        return self._max_norm is None and bool(self._entries)

    def hand_over(self, kept: Kept, group: Group, gradient: Tensor, at_once: bool = True) -> None:
        """Take a parameter's gradient. at_once: threads begin with it, else they do when all have come."""
        held, ready = kept.take(gradient)
        kept.struct.turn = kept.step + 1
        entry = _Entry(kept, group, held, ready, self._action)
        self._entries[id(kept)] = entry
        self._waiting.append(entry)
        if at_once and sum(one.kept.n for one in self._waiting) >= BATCH:
            self._begin()

    def _work(
        self, entries: list[_Entry], action: Pass | None = None, scale: float = 1.0
    ) -> Passes:
        steps: dict[tuple[int, int], StepStruct] = {}
        tensors = []
        for one in entries:
            key = (id(one.group), one.kept.step)
            if key not in steps:
                steps[key] = constants(one.group, one.kept.step + 1, self._state, scale)
            tensors.append(
                (one.kept.struct, steps[key], one.kept.n, one.action if action is None else action)
            )
        return Passes(tensors)

    def _begin(self) -> None:
        entries, self._waiting = self._waiting, []
        if not entries:
            return
        work = self._work(entries)
        finished: list[None] = []
        n_threads = self._threads.n_for(work.n_parts)

        def do() -> None:
            for one in entries:
                if one.ready is not None:
                    one.ready.synchronize()
            work.do()
            finished.append(None)
            if len(finished) == n_threads and self._action is Pass.WHOLE:
                for one in entries:
                    one.gradient = None

        self._running.append((entries, work, self._threads.begin(do, n_threads)))

    def _settle(self) -> int:
        """Wait for all threads. Return how many blocks were left out; raise what a thread has raised."""
        self._begin()
        n_left_out = 0
        wrong: BaseException | None = None
        for entries, work, futures in self._running:
            errors = [error for future in futures if (error := future.exception()) is not None]
            wrong = wrong or next(iter(errors), None)
            if errors and not work.has_begun:
                for one in entries:
                    del self._entries[id(one.kept)]
                continue
            for one, squares in zip(entries, work.squares(), strict=True):
                one.squares = squares
                one.kept.step += one.action is Pass.WHOLE
            n_left_out += work.n_left_out()
        self._running.clear()
        if wrong is not None:
            raise wrong
        return n_left_out

    def finish(self) -> StepOutcome:
        """Make what is left of the step. Raises what a thread has raised, after what can be undone is."""
        try:
            n_left_out = self._settle()
        except BaseException:
            self.give_up()
            raise
        entries = list(self._entries.values())
        if self._max_norm is None:
            self._send(entries)
            return StepOutcome(math.nan, is_clipped=False, is_skipped=n_left_out > 0)
        norm = self._norm(entries)
        if not math.isfinite(norm):
            self._undo(entries)
            return StepOutcome(norm, is_clipped=False, is_skipped=True)
        scale = clip_scale(norm, self._max_norm)
        action = Pass.FINISH if self._action is Pass.EARLY else Pass.WHOLE
        self._threads.do(self._work(entries, action, scale))
        for one in entries:
            one.kept.step += 1
        self._send(entries)
        return StepOutcome(norm, is_clipped=scale < 1, is_skipped=False)

    def _norm(self, entries: list[_Entry], wrong: float = 0.0) -> float:
        """Return the norm of all gradients, over all processes. wrong: NaN spoils it for all of them."""
        squares: dict[tuple[Any, ...], list[float]] = {
            groups: [wrong] for groups, _ in self._sharing
        }
        for one in entries:
            squares.setdefault(one.kept.groups, []).extend(one.squares)
        own = math.fsum(squares.pop((), [wrong]))
        for groups, device in self._sharing:
            part = torch.tensor(math.fsum(squares[groups]), dtype=torch.float64, device=device)
            for group in groups:
                torch.distributed.all_reduce(part, group=group)
            own += part.item()
        return math.sqrt(own)

    def give_up(self) -> None:
        """End the step that others may be making, who divide parameters with this process.

        They leave it out, as the norm of all parts is no number then.
        """
        self.abandon()
        if self._max_norm is not None:
            self._norm([], math.nan)

    def abandon(self) -> None:
        """End the step without making it: moments are as they were; weights that have moved stay so."""
        self._waiting.clear()
        wrong: BaseException | None = None
        try:
            self._settle()
        except BaseException as error:  # it was the reason, or comes after it
            wrong = error
        del wrong
        entries = list(self._entries.values())
        if self._max_norm is None:
            self._send([one for one in entries if one.action is Pass.WHOLE])
        else:
            self._undo(entries)

    def _undo(self, entries: list[_Entry]) -> None:
        if self._action is Pass.EARLY:
            self._threads.do(self._work(entries, Pass.UNDO))

    @staticmethod
    def _send(entries: list[_Entry]) -> None:
        for one in entries:
            one.kept.send()
