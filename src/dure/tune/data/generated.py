"""Examples that a program writes while the model learns: a function of a seed and a step.

No example comes twice, and what is written may change with the step. `package:function` names it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dure.errors import UsageError
from dure.tune.data.encoder import ExampleEncoder
from dure.tune.data.examples import Floats, Ids
from dure.tune.data.records import record_of
from dure.tune.data.rows import Row, row_of

__all__ = ["HELD_OUT_ROWS", "GeneratedRows", "Writer", "is_generated", "writer_named"]

Writer = Callable[[int, int], Iterable[Mapping[str, Any]]]
"""Writes examples without end: of a seed and a step, which is negative for what is never learned."""

WAITING = 12  # examples among which one is sought that fits
HELD_OUT_ROWS = 16
MOST_TRIES = 1000


def is_generated(name: str) -> bool:
    """Return whether a value of --data names a function, not a file."""
    module, colon, function = name.partition(":")
    return (
        bool(colon)
        and function.isidentifier()
        and all(part.isidentifier() for part in module.split("."))
        and not Path(name).exists()
    )


def writer_named(name: str) -> Writer:
    """Return the function that is called `package:function`, found from this folder too.

    Raises UsageError if there is none.
    """
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"--data {name}: {error}", "give package:function, and run where the package lies"
        ) from error
    if not callable(found):
        raise UsageError(f"--data {name} is no function", "name one that takes a seed and a step")
    return found  # type: ignore[no-any-return]


class GeneratedRows:
    """Rows of examples as they are written: a step's depend on the seed and the step only."""

    def __init__(
        self,
        name: str,
        write: Writer,
        encoder: ExampleEncoder,
        ctx: int,
        *,
        n_rows: int,
        n_held_out: int,
        seed: int,
    ) -> None:
        self._name, self._write, self._encoder = name, write, encoder
        self._ctx, self._n_rows, self._n_held_out, self._seed = ctx, n_rows, n_held_out, seed

    def rows(self, step: int) -> list[Row]:
        """Return the rows of a step, which counts from 0."""
        return self._filled(step, self._n_rows)

    def held_out(self) -> list[Row]:
        """Return the rows that are never learned."""
        return self._filled(-1, self._n_held_out)

    def _filled(self, step: int, n_rows: int) -> list[Row]:
        source, waiting = self._examples(step), list[tuple[Ids, Floats]]()
        rows = []
        for _ in range(n_rows):
            row, room = list[tuple[Ids, Floats]](), self._ctx
            while True:
                while len(waiting) < WAITING:
                    waiting.append(next(source))
                fits = next((i for i, one in enumerate(waiting) if len(one[0]) <= room), None)
                if fits is None:
                    break
                row.append(waiting.pop(fits))
                room -= len(row[-1][0])
            rows.append(row_of(row))
        return rows

    def _examples(self, step: int) -> Iterator[tuple[Ids, Floats]]:
        """Yield examples that fit into the context. Raises UsageError if there are none."""
        tried = 0
        for number, said in enumerate(self._write(self._seed, step)):
            record = record_of(said, f"--data {self._name} step {step} example {number}")
            for one in self._encoder.encode(record):
                tried += 1
                if len(one.ids) <= self._ctx and any(one.weights):
                    tried = 0
                    yield np.array(one.ids, np.int32), np.array(one.weights, np.float32)
            if tried > MOST_TRIES:
                raise UsageError(
                    f"--data {self._name}: {tried:,} examples are longer than the context of "
                    f"{self._ctx} tokens",
                    "use a larger --ctx",
                )
        raise UsageError(
            f"--data {self._name} has too few examples for step {step}", "let it yield without end"
        )
