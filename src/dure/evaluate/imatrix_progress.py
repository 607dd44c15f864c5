"""The file beside an importance matrix while that is gathered: the sums so far, and the model's texts.

Knows when it may go on: the same model, text and chunks. Refuses to know how sums are gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dure.convert.importance import Importance, importance_in, write_importance
from dure.errors import ModelError, UsageError
from dure.model.gguf import Value, ValueKind, array_of, open_gguf

__all__ = ["Begun", "ProgressFile"]

_IDENTITY, _TOKENS, _LENGTHS = (
    f"dure.imatrix.{name}" for name in ("identity", "tokens", "text_lengths")
)


@dataclass(frozen=True)
class Begun:
    """What an earlier run has done. texts: that the model wrote, in their order."""

    importance: Importance
    texts: Sequence[list[int]] = ()


class ProgressFile:
    """The progress towards the file `out`. identity: of all that the sums depend on."""

    def __init__(self, out: Path, identity: str) -> None:
        self.path, self._identity = out.with_name(f"{out.name}.progress"), identity

    def load(self, *, anew: bool = False) -> Begun | None:
        """Return what an earlier run has done; None if there is nothing. anew: delete it.

        Raises UsageError if it was of something else, or is damaged.
        """
        if anew:
            self.delete()
        if not self.path.exists():
            return None
        try:
            return self._read()
        except ModelError as error:
            raise UsageError(error.problem, "--force begins anew") from error

    def _read(self) -> Begun:
        with open_gguf(self.path) as file:
            if file.str(_IDENTITY, "") != self._identity:
                raise ModelError(
                    f"{self.path} was begun with another model, text, --ctx or --chunks"
                )
            importance = importance_in(file)
            tokens, lengths = (
                value.value if (value := file.metadata.get(key)) is not None else []
                for key in (_TOKENS, _LENGTHS)
            )
        ends = np.cumsum(lengths, dtype=np.int64).tolist()
        if len(tokens) != sum(lengths):
            raise ModelError(f"{self.path} is damaged")
        starts = [0, *ends][:-1]
        return Begun(importance, [tokens[a:b] for a, b in zip(starts, ends, strict=True)])

    def save(self, begun: Begun) -> None:
        """Write it down: the whole file, or nothing. Raises ResourceError if the disk is full."""
        tokens = [token for text in begun.texts for token in text]
        extra: dict[str, Value | str | int] = {
            _IDENTITY: self._identity,
            _TOKENS: array_of(ValueKind.INT32, tokens),
            _LENGTHS: array_of(ValueKind.UINT32, [len(text) for text in begun.texts]),
        }
        write_importance(self.path, begun.importance, extra)

    def delete(self) -> None:
        """Delete it, if it is there."""
        self.path.unlink(missing_ok=True)
