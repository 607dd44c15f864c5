"""Says what is wrong with a value on the command line, in the environment or in the configuration."""

from __future__ import annotations

from typing import Any

import typer

from dure.errors import UsageError

__all__ = ["cure_of", "misuse"]

_CURES = {  # by pydantic's type of an error: typer reads values with it
    "float_parsing": "give a number, as in 0.5",
    "int_parsing": "give a whole number, as in 4",
    "int_from_float": "give a whole number, as in 4",
    "bool_parsing": "give true or false",
}


def cure_of(error: typer.BadParameter) -> str:
    """Return what to do about a value."""
    read: Any = error.__cause__
    kind = read.errors()[0]["type"] if hasattr(read, "errors") else ""
    choices = error.param and error.param.type_descriptor.choices
    if choices:
        return f"give one of {', '.join(str(getattr(one, 'value', one)) for one in choices)}"
    return _CURES.get(kind) or error.message.rstrip(".")


def misuse(error: typer.BadParameter, see: str) -> UsageError | None:
    """Return the error of a value that its option cannot be; None of another misuse. see: its help."""
    read: Any = error.__cause__
    if error.param is None or not hasattr(read, "errors"):
        return None
    name, value = error.param.opts[0], read.errors()[0]["input"]
    return UsageError(f"{name} {value}", f"{cure_of(error)} ({see})")
