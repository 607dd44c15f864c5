"""Hyperparameters: config.json in the keys of transformers 4 and 5, of text models and those within others.

Knows keys and their kinds. Refuses to know architectures.
"""

from __future__ import annotations

from collections.abc import ItemsView, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dure.convert.huggingface.json_file import read_json
from dure.errors import ModelError
from dure.model.gguf.values import one_line

__all__ = ["Config"]

_MOST = 1 << 31


class Config:
    """One config.json, or an object within. Raises ModelError for values that make no sense."""

    def __init__(self, values: Mapping[str, Any], name: str = "config.json") -> None:
        self._values, self._name = values, name

    @classmethod
    def read(cls, folder: Path) -> Config:
        """Read a folder's config.json; what it says of a text model within counts as its own."""
        values = read_json(folder / "config.json")
        within = values.get("text_config")
        if isinstance(within, dict):
            values = {**values, **within, "architectures": values.get("architectures")}
        return cls(values)

    def over(self, defaults: Mapping[str, Any]) -> Config:
        """Return the same with values for keys that are not there."""
        return Config({**defaults, **self._values}, self._name)

    def fail(self, problem: str, cure: str = "get the model again") -> NoReturn:
        """Raise a ModelError about this file."""
        raise ModelError(f"{self._name}: {problem}", cure)

    def require(self, key: str, *allowed: object, default: object = None) -> None:
        """Check that a value is one that llama.cpp computes with."""
        value = self._values.get(key, default)
        if value not in allowed:
            self.fail(
                f"{key} is {one_line(repr(value))}, and llama.cpp computes only with "
                f"{' or '.join(map(repr, allowed))}",
                "dure cannot run this model",
            )

    def has(self, key: str) -> bool:
        """Whether there is a value, and not null."""
        return self._values.get(key) is not None

    def whole(self, *keys: str, default: int | None = None) -> int:
        """Return a whole number from 1; the first key that is there counts."""
        value = self._first(keys, default)
        if type(value) is not int or not 1 <= value < _MOST:
            self.fail(f"{keys[0]} is {one_line(repr(value))}, not a number from 1")
        return value

    def number(self, *keys: str, default: float | None = None) -> float:
        """Return a number; the first key that is there counts."""
        value = self._first(keys, default)
        if type(value) not in (int, float) or not abs(value) < float("inf"):
            self.fail(f"{keys[0]} is {one_line(repr(value))}, not a number")
        return float(value)

    def text(self, key: str, default: str = "") -> str:
        """Return a text."""
        value = self._first((key,), default)
        if not isinstance(value, str):
            self.fail(f"{key} is {one_line(repr(value))}, not a text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return a truth value."""
        value = self._first((key,), default)
        if not isinstance(value, bool):
            self.fail(f"{key} is {one_line(repr(value))}, neither true nor false")
        return value

    def listed(self, key: str) -> Sequence[Any]:
        """Return a list, empty if there is none."""
        value = self._first((key,), [])
        if not isinstance(value, list):
            self.fail(f"{key} is {one_line(repr(value))}, not a list")
        return value

    def within(self, *keys: str) -> Config:
        """Return the object of the first key that is there, an empty one if none is."""
        value = self._first(keys, {})
        if not isinstance(value, dict):
            self.fail(f"{keys[0]} is {one_line(repr(value))}, not an object")
        return Config(value, f"{self._name}, {keys[0]}")

    def items(self) -> ItemsView[str, Any]:
        """Return all keys with their values."""
        return self._values.items()

    def token_ids(self, key: str) -> list[int]:
        """Return the ids of tokens, of which there may be one, several or none."""
        value = self._values.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(one) is int and 0 <= one < _MOST for one in ids):
            self.fail(f"{key} is {one_line(repr(value))}, not ids of tokens")
        return ids

    def _first(self, keys: Sequence[str], default: Any) -> Any:
        for key in keys:
            if self._values.get(key) is not None:
                return self._values[key]
        if default is None:
            self.fail(f"it has no {keys[0]}")
        return default
