"""What a dialect lets through: the rest of a request means what it means without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dure.http.unused_fields import UnusedFields, collecting

__all__ = ["check_let_through"]


def check_let_through(
    name: str, fields: Mapping[str, Any], *meanings: Callable[..., object]
) -> None:
    """Require that fields change none of the meanings of a request, and that `name` is noted of them.

    meanings: each makes one, such as a task, of the fields that a request has besides the usual ones.
    """
    with collecting(UnusedFields()) as found:
        for meaning in meanings:
            assert meaning(**fields) == meaning()
    assert list(found.names) == [name]
