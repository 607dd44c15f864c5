"""Measures what each type does to each tensor's output, and keeps it: another target takes seconds then.

The error is relative to the output, and weighed by the importance matrix:
sum(w (W - Q)^2) / sum(w W^2) with w the mean square of each column's input. Some rows stand for all, the
same ones every time; first few of every tensor, then more, as long as there is time.
Refuses to choose.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from dure.convert.quantize.encoding import (
    Floats,
    Importances,
    importance_of,
    n_matrices,
    read_rows,
)
from dure.model.ggml import dequantize, quantize, type_named
from dure.model.gguf import GgufFile, Tensor
from dure.whole_file import write_whole

__all__ = ["ErrorTable", "Progress", "measure_errors", "weights_left"]

STAGES = (32, 128, 512)  # rows of a tensor, after each pass over all tensors
_SAVE_S = 5.0

Progress = Callable[[float], None]  # the part that is done, 0 to 1


class _Sum(msgspec.Struct, array_like=True):
    """Squares over the same rows: of the errors, and of the outputs. rows: how many."""

    errors: float = 0.0
    outputs: float = 0.0
    rows: int = 0


class ErrorTable:
    """What was measured of one model with one importance matrix, on disk; damaged, it is measured again."""

    def __init__(self, path: Path) -> None:
        self._path, self._saved = path, time.monotonic()
        self._sums: dict[str, dict[str, _Sum]] = {}
        try:
            read = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, _Sum]])
        except (OSError, msgspec.MsgspecError):
            return
        self._sums = read

    def error(self, tensor: str, type_name: str) -> float | None:
        """Return a type's relative output error, from 0 to about 1; None if it was not measured."""
        found = self._sums.get(tensor, {}).get(type_name)
        return found.errors / found.outputs if found and found.outputs else None

    def rows(self, tensor: str, type_name: str) -> int:
        """Return how many rows were measured."""
        found = self._sums.get(tensor, {}).get(type_name)
        return found.rows if found else 0

    def add(self, tensor: str, sums: Mapping[str, _Sum]) -> None:
        """Add what further rows gave, by type; now and then it is saved."""
        types = self._sums.setdefault(tensor, {})
        for name, more in sums.items():
            old = types.get(name, _Sum())
            types[name] = _Sum(
                old.errors + more.errors, old.outputs + more.outputs, old.rows + more.rows
            )
        if time.monotonic() > self._saved + _SAVE_S:
            self.save()

    def save(self) -> None:
        """Write it to disk."""
        write_whole(self._path, msgspec.json.encode(self._sums))
        self._saved = time.monotonic()


@dataclass(frozen=True)
class _Job:
    """Rows of a tensor, by their place in its order, and the types that they were not measured with."""

    tensor: Tensor
    types: tuple[str, ...]
    first: int
    stop: int

    @property
    def work(self) -> int:
        return (self.stop - self.first) * self.tensor.shape[0] * len(self.types)


def measure_errors(
    model: GgufFile,
    importances: Importances | None,
    types: Mapping[str, Sequence[str]],
    table: ErrorTable,
    *,
    threads: int,
    time_s: float,
    progress: Progress = lambda _: None,
) -> None:
    """Measure what the table lacks. types: by tensor, the types that it may have.

    The first pass is always finished; the others, of more rows, as far as time_s allows.
    """
    ends = time.monotonic() + time_s
    stages = [list(_jobs(model, types, table, n)) for n in STAGES]
    total, done = sum(job.work for stage in stages for job in stage), 0
    try:
        for number, jobs in enumerate(stages):
            for job, sums in _done(model, importances, jobs, threads, None if not number else ends):
                table.add(job.tensor.name, sums)
                done += job.work
                progress(done / total)
    finally:
        table.save()
    progress(1.0)


def weights_left(
    model: GgufFile, types: Mapping[str, Sequence[str]], table: ErrorTable
) -> list[Counter[str]]:
    """Return how many weights `measure_errors` has to encode in each type, in each of its passes."""
    passes = []
    for stage in STAGES:
        left: Counter[str] = Counter()
        for job in _jobs(model, types, table, stage):
            left.update(dict.fromkeys(job.types, job.work // len(job.types)))
        passes.append(left)
    return passes


def _jobs(
    model: GgufFile, types: Mapping[str, Sequence[str]], table: ErrorTable, n_rows: int
) -> Iterator[_Job]:
    """Yield what brings every tensor from the stage before to n_rows rows."""
    before = max((stage for stage in STAGES if stage < n_rows), default=0)
    for name, names in types.items():
        tensor = model.tensors[name]
        first, stop = (min(n, tensor.n_rows) for n in (before, n_rows))
        lacking = tuple(one for one in names if table.rows(name, one) < stop)
        if first < stop and lacking:
            yield _Job(tensor, lacking, first, stop)


def _done(
    model: GgufFile,
    importances: Importances | None,
    jobs: Sequence[_Job],
    threads: int,
    ends: float | None,
) -> Iterator[tuple[_Job, dict[str, _Sum]]]:
    """Yield each job with its sums as it is done; those that begin too late are left out."""

    def measured(job: _Job) -> dict[str, _Sum] | None:
        late = ends is not None and time.monotonic() > ends
        return None if late else _measured(model, importances, job)

    with ThreadPoolExecutor(threads, "measure") as pool:
        futures: dict[Future[dict[str, _Sum] | None], _Job] = {
            pool.submit(measured, job): job for job in jobs
        }
        try:
            for future in as_completed(futures):
                if (sums := future.result()) is not None:
                    yield futures[future], sums
        finally:
            for one in futures:
                one.cancel()


def _measured(model: GgufFile, importances: Importances | None, job: _Job) -> dict[str, _Sum]:
    """Measure the types of a job on its rows."""
    tensor = job.tensor
    importance = importance_of(importances, tensor)
    sums = {name: _Sum() for name in job.types}
    for matrix, rows in _rows_by_matrix(tensor, job.first, job.stop):
        weights = None if importance is None else importance[matrix]
        originals = np.concatenate([read_rows(model, tensor, row, 1) for row in rows])
        outputs = _squares(originals, weights)
        for name, sum_ in sums.items():
            sum_.errors += _error(originals, name, weights)
            sum_.outputs += outputs
            sum_.rows += len(rows)
    return sums


def _error(originals: Floats, type_name: str, weights: Floats | None) -> float:
    type_ = type_named(type_name)
    encoded = quantize(originals, type_, weights)
    decoded = dequantize(encoded, type_, originals.size).reshape(originals.shape)
    return _squares(originals - decoded, weights)


def _squares(x: Floats, weights: Floats | None) -> float:
    columns = np.einsum("ij,ij->j", x, x, dtype=np.float64)
    return float(columns.sum() if weights is None else columns @ weights.astype(np.float64))


def _rows_by_matrix(tensor: Tensor, first: int, stop: int) -> Iterator[tuple[int, list[int]]]:
    """Yield (matrix, rows) of a part of the tensor's rows, in an order that its name alone decides."""
    order = np.random.default_rng(zlib.crc32(tensor.name.encode())).permutation(tensor.n_rows)
    of_matrix = tensor.n_rows // n_matrices(tensor)
    chosen = np.sort(order[first:stop])
    for matrix in np.unique(chosen // of_matrix):
        yield int(matrix), [int(row) for row in chosen[chosen // of_matrix == matrix]]
