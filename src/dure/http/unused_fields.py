"""What happens to those parts of a request that the server has no use for.

Three things can: what cannot change the answer is let through, and named in the header `x-dure-ignored`;
what could is refused by name; an unknown name is let through unless it looks like a misspelled one.
Refuses to know any dialect: each has a table of its own, which `request_model` applies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from dure.errors import ParameterError

__all__ = [
    "HEADER",
    "FieldTable",
    "Ignored",
    "Refused",
    "UnusedFields",
    "collecting",
    "is_strict",
    "let_through",
    "note_unused",
]

HEADER = "x-dure-ignored"
_MOST_NAMED = 24
_LONGEST_NAME = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9_.*-]")


@dataclass(frozen=True)
class Ignored:
    """A field on which the answer does not depend. reason: completes "ignored: …".

    wish: the client asks for something that it does not get; a strict server refuses it.
    unless: values that ask for what the server does anyway, besides null.
    """

    reason: str
    wish: bool = False
    unless: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Refused:
    """A field that could change the answer. unless: the values that ask for nothing, besides null."""

    reason: str
    cure: str = "leave it out"
    unless: tuple[Any, ...] = ()


FieldTable = Mapping[str, Ignored | Refused]
"""By path, as `messages.content.cache_control` (lists have no numbers) or `*.NAME` for any depth."""


@dataclass
class UnusedFields:
    """What one request said in vain. strict: raise instead. names: whether a table knows each."""

    strict: bool = False
    names: dict[str, bool] = field(default_factory=dict)

    def labels(self) -> tuple[str, ...]:
        """Return the names for a metric: clients may choose only the word (unknown)."""
        return tuple({name if known else "(unknown)" for name, known in self.names.items()})

    def header(self) -> str:
        """Return the names for a header, at most a few dozen."""
        names = list(self.names)
        more = len(names) - _MOST_NAMED
        return ", ".join(names[:_MOST_NAMED] + ([f"and {more} more"] if more > 0 else []))


_current: ContextVar[UnusedFields | None] = ContextVar("unused_fields", default=None)


@contextmanager
def collecting(found: UnusedFields) -> Iterator[UnusedFields]:
    """Collect what is let through in this context."""
    token = _current.set(found)
    try:
        yield found
    finally:
        _current.reset(token)


def let_through(name: str, reason: str) -> None:
    """Note a wish that is not granted. Raises ParameterError if the server is strict."""
    if is_strict():
        raise ParameterError(name, f"{name}: {reason}", "leave it out")
    note_unused(name)


def note_unused(path: str, *, known: bool = True) -> None:
    """Note a field that is let through. known: a table has it."""
    found = _current.get()
    if found is not None:
        found.names[_printable(path)] = known


def is_strict() -> bool:
    """Return whether the server of this context refuses what it does not grant."""
    found = _current.get()
    return found is not None and found.strict


def _printable(name: str) -> str:
    """Return a name that may stand in a header: clients choose them."""
    return _UNSAFE.sub("_", name[:_LONGEST_NAME])
