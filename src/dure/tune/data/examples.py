"""All examples of a run in memory, as arrays, and in words what was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from dure.errors import UsageError
from dure.tune.data.encoder import Encoded, ExampleEncoder
from dure.tune.data.records import ExampleRecord, Kind

__all__ = ["DataSummary", "Examples", "LongPolicy", "read_examples"]

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]


class LongPolicy(StrEnum):
    """What becomes of an example that is longer than the context."""

    CUT = "cut"
    SKIP = "skip"
    REFUSE = "refuse"


@dataclass
class DataSummary:
    """What was read.

    records: by kind. examples, tokens: what is learned from, with what is held out. answers: tokens that
    are learned. longest: tokens of an example, before it was cut.
    """

    records: Counter[Kind] = field(default_factory=Counter)
    examples: int = 0
    tokens: int = 0
    answers: int = 0
    longest: int = 0
    cut: int = 0
    skipped: int = 0
    empty: int = 0
    held_out: int = 0

    def sentence(self) -> str:
        """Return it in words."""
        kinds = " and ".join(
            f"{n:,} {kind if n > 1 else kind[:-1]}" for kind, n in self.records.items()
        )
        share = self.answers / self.tokens if self.tokens else 0.0
        learned = "" if set(self.records) == {Kind.TEXT} else f", {share:.0%} of them answers"
        held = f"; {self.held_out:,} examples are held out for evaluation" if self.held_out else ""
        return f"{kinds}, {_counted(self.tokens)} tokens{learned}{held}".replace("%", " %")

    def notes(self) -> Iterator[str]:
        """Yield what a user may not expect."""
        if self.cut:
            yield (
                f"{self.cut:,} examples were longer than the context (the longest has {self.longest:,} "
                "tokens) and were cut: a larger --ctx keeps them whole, --long skip leaves them out"
            )
        if self.skipped:
            yield f"{self.skipped:,} examples were longer than the context, and are left out"
        if self.empty:
            yield f"{self.empty:,} examples have no token to learn within the context, and are left out"


@dataclass(frozen=True)
class Examples:
    """Tokens of all examples, one after the other, and where each begins.

    ids: int32 [tokens]. weights: float32 [tokens]. starts: int64 [examples + 1]. held_out: bool [examples].
    """

    ids: Ids
    weights: Floats
    starts: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.bool_]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Return the tokens of each example."""
        return np.diff(self.starts)

    def of(self, number: int) -> tuple[Ids, Floats]:
        """Return the tokens of one example, and their weights."""
        one = slice(self.starts[number], self.starts[number + 1])
        return self.ids[one], self.weights[one]


def read_examples(
    records: Iterable[ExampleRecord],
    encoder: ExampleEncoder,
    ctx: int,
    *,
    long: LongPolicy = LongPolicy.CUT,
    eval_split: float = 0.0,
) -> tuple[Examples, DataSummary]:
    """Read all examples. ctx: the most tokens of one. eval_split: the share to be held out.

    An example is held out by what it says, so that the same is held out whenever it is read. Raises
    UsageError if one is bad, or none is left.
    """
    gathered, summary = _Gathered(), DataSummary()
    for record in records:
        summary.records[record.kind] += 1
        is_held_out = record.share < eval_split
        for encoded in encoder.encode(record):
            summary.longest = max(summary.longest, len(encoded.ids))
            for fitting in _fitted(encoded, record, ctx, long, summary):
                if any(fitting.weights):
                    gathered.add(fitting, is_held_out)
                else:
                    summary.empty += 1
    examples = gathered.examples()
    summary.examples, summary.tokens = len(examples.held_out), len(examples.ids)
    summary.answers = int(np.count_nonzero(examples.weights == 1.0))
    summary.held_out = int(examples.held_out.sum())
    if summary.examples == summary.held_out:
        raise UsageError("there is no example to learn from", "give more --data, or a larger --ctx")
    return examples, summary


def _fitted(
    encoded: Encoded, record: ExampleRecord, ctx: int, long: LongPolicy, summary: DataSummary
) -> Iterator[Encoded]:
    length = len(encoded.ids)
    if length <= ctx:
        yield encoded
    elif record.kind is Kind.TEXT:  # every token is learned once
        for start in range(0, length - 1, ctx - 1):
            ids = encoded.ids[start : start + ctx]
            yield Encoded(ids, [0.0, *encoded.weights[start + 1 : start + ctx]])
    elif long is LongPolicy.CUT:
        summary.cut += 1
        yield Encoded(encoded.ids[:ctx], encoded.weights[:ctx])
    elif long is LongPolicy.SKIP:
        summary.skipped += 1
    else:
        raise UsageError(
            f"{record.place} has {length:,} tokens, and the context {ctx:,}",
            "use a larger --ctx, or let it be cut (--long cut) or left out (--long skip)",
        )


class _Gathered:
    """Grows in pieces, since lists of Python's numbers would take eight times the memory."""

    def __init__(self) -> None:
        self._ids: list[Ids] = []
        self._weights: list[Floats] = []
        self._held_out: list[bool] = []

    def add(self, one: Encoded, is_held_out: bool) -> None:
        self._ids.append(np.array(one.ids, np.int32))
        self._weights.append(np.array(one.weights, np.float32))
        self._held_out.append(is_held_out)

    def examples(self) -> Examples:
        starts = np.cumsum([0, *map(len, self._ids)], dtype=np.int64)
        return Examples(
            np.concatenate([np.zeros(0, np.int32), *self._ids]),
            np.concatenate([np.zeros(0, np.float32), *self._weights]),
            starts,
            np.array(self._held_out, np.bool_),
        )


def _counted(n: int) -> str:
    for size, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if n >= 10 * size or (n >= size > 1000):
            return f"{n / size:.{0 if n >= 10 * size else 1}f} {name}"
    return f"{n:,}"
