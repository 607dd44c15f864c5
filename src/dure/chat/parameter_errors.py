"""Names the parameter of a request that an error is about, if who raises it knows no request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dure.errors import ParameterError, UsageError

__all__ = ["blaming"]


@contextmanager
def blaming(param: str) -> Iterator[None]:
    """Raise a UsageError of the block as a ParameterError about `param`, with the same text."""
    try:
        yield
    except UsageError as error:
        raise ParameterError(param, error.problem, error.cure) from error
