"""Rows of tokens for each step: which examples, in which order, packed or alone.

The rows of a step depend on the seed and the step only, so a run that was stopped goes on anywhere.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dure.tune.data.examples import Examples, Floats, Ids

__all__ = ["FileRows", "Row", "RowSource", "batches_of", "packed", "row_of"]

OPEN_ROWS = 256


@dataclass(frozen=True)
class Row:
    """One or more examples, one after the other.

    ids: int32 [tokens]. weights: float32 [tokens]. positions: int32 [tokens], which begin at 0 with each
    example: by them attention keeps examples apart.
    """

    ids: Ids
    weights: Floats
    positions: Ids

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def weight(self) -> float:
        """Return the sum of its weights."""
        return float(self.weights.sum(dtype=np.float64))


class RowSource(Protocol):
    """Where the rows of a step come from."""

    def rows(self, step: int) -> list[Row]:
        """Return the rows of a step, which counts from 0."""
        ...

    def held_out(self) -> list[Row]:
        """Return the rows that are never learned."""
        ...


def row_of(examples: Sequence[tuple[Ids, Floats]]) -> Row:
    """Return a row of examples."""
    return Row(
        np.concatenate([ids for ids, _ in examples]),
        np.concatenate([weights for _, weights in examples]),
        np.concatenate([np.arange(len(ids), dtype=np.int32) for ids, _ in examples]),
    )


def packed(lengths: npt.NDArray[np.int64], order: Sequence[int], ctx: int) -> list[list[int]]:
    """Return rows of at most ctx tokens, each a list of examples: an example goes where it fits best.

    order: in which examples are taken; rows are in the order of their first ones.
    """
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # what is free in an open row, and its number; sorted
    for example in order:
        length = int(lengths[example])
        at = bisect_left(rooms, (length, -1))
        if at < len(rooms):
            room, number = rooms.pop(at)
            rows[number].append(example)
        else:
            room, number = ctx, len(rows)
            rows.append([example])
            if len(rooms) >= OPEN_ROWS:
                rooms.pop(0)
        if room > length:
            insort(rooms, (room - length, number))
    return rows


class FileRows:
    """Rows of examples that were read from files: every epoch has each example once.

    rows_per_step: rows of a step, fewer at an epoch's end. pack: several examples share a row.
    """

    def __init__(
        self, examples: Examples, ctx: int, *, rows_per_step: int, seed: int, pack: bool
    ) -> None:
        self._examples, self._ctx, self._pack = examples, ctx, pack
        self._per_step, self._seed = rows_per_step, seed
        self._learned = np.flatnonzero(~examples.held_out)
        self._begins = [0]  # the first step of each epoch
        self._last: tuple[int, list[list[int]]] = (-1, [])

    def steps_of(self, epochs: float) -> int:
        """Return the steps of some epochs, of which the last may be a part of one."""
        whole = int(epochs)
        steps = self._begin_of(whole)
        return steps + math.ceil((epochs - whole) * (self._begin_of(whole + 1) - steps))

    def rows(self, step: int) -> list[Row]:
        """Return the rows of a step, which counts from 0."""
        epoch = 0
        while self._begin_of(epoch + 1) <= step:
            epoch += 1
        at = (step - self._begin_of(epoch)) * self._per_step
        return [self._row(one) for one in self._epoch(epoch)[at : at + self._per_step]]

    def held_out(self) -> list[Row]:
        """Return the rows that are never learned."""
        numbers = np.flatnonzero(self._examples.held_out)
        return [self._row(one) for one in self._grouped([int(n) for n in numbers])]

    def _begin_of(self, epoch: int) -> int:
        while len(self._begins) <= epoch:
            n_rows = len(self._epoch(len(self._begins) - 1))
            self._begins.append(self._begins[-1] + math.ceil(n_rows / self._per_step))
        return self._begins[epoch]

    def _epoch(self, epoch: int) -> list[list[int]]:
        if self._last[0] != epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(self._learned)
            self._last = epoch, self._grouped(order.tolist())
        return self._last[1]

    def _grouped(self, order: list[int]) -> list[list[int]]:
        if not self._pack:
            return [[one] for one in order]
        return packed(self._examples.lengths, order, self._ctx)

    def _row(self, numbers: list[int]) -> Row:
        return row_of([self._examples.of(n) for n in numbers])


def batches_of(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Yield the rows of one pass through the model at a time."""
    for at in range(0, len(rows), size):
        yield rows[at : at + size]
