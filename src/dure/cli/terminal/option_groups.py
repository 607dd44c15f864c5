"""Lets commands share groups of options: a dataclass whose fields are options.

A command takes a group as a parameter of its type; `expanded` shows Typer the group's options instead, and
passes the group to the command. A parameter of the command's own takes the place of an option of its name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, cast, get_type_hints

__all__ = ["collected", "expanded"]

G = TypeVar("G")


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command for Typer, with each group replaced by its options."""
    signature = inspect.signature(command, eval_str=True)
    groups = {p.name: p.annotation for p in signature.parameters.values() if _is_group(p)}
    own = signature.parameters.keys()

    @functools.wraps(command)
    def grouped(**values: Any) -> None:
        theirs = {name: value for name, value in values.items() if name not in own}
        given = {name: collected(group, theirs) for name, group in groups.items()}
        for group in groups.values():
            for field in fields(group):
                if field.name not in own:
                    del values[field.name]
        command(**values, **given)

    parameters = [
        one
        for p in signature.parameters.values()
        for one in ([o for o in _options(p) if o.name not in own] if _is_group(p) else [p])
    ]
    grouped.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    )
    grouped.__annotations__ = {p.name: p.annotation for p in parameters}
    return grouped


def collected(group: type[G], values: Mapping[str, Any]) -> G:
    """Return a group with its options' values, by name; with its defaults where there is none."""
    names = [field.name for field in fields(cast(Any, group))]
    return group(**{name: values[name] for name in names if name in values})


def _is_group(parameter: inspect.Parameter) -> bool:
    return isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation)


def _options(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(parameter.annotation, include_extras=True)
    for field in fields(parameter.annotation):
        yield inspect.Parameter(
            field.name, parameter.kind, default=_default(field), annotation=hints[field.name]
        )


def _default(field: Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is MISSING else field.default
