"""Remembers what was read of a header, as long as the model is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

from dure.model.gguf.reader import GgufFile

__all__ = ["once_per_model"]

T = TypeVar("T")


def once_per_model(read: Callable[[GgufFile], T]) -> Callable[[GgufFile], T]:
    """Return a function that reads each model once. What it raises, it raises again."""
    known: WeakKeyDictionary[GgufFile, T] = WeakKeyDictionary()

    @wraps(read)
    def remembered(model: GgufFile) -> T:
        if model not in known:
            known[model] = read(model)
        return known[model]

    return remembered
