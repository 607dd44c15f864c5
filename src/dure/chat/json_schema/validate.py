"""Checks that a text is JSON and follows a schema.

Knows the library `jsonschema`, and keeps it off the network. Refuses to know grammars.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # published without types
import referencing
from jsonschema import validators

from dure.chat.json_schema.formats import FORMATS
from dure.errors import UsageError

__all__ = ["check_well_formed", "conforming", "validate"]

_CACHED_SIZE = 1 << 14  # characters of a schema whose check is cached
_Checker = jsonschema.FormatChecker(formats=())
for _name, _pattern in FORMATS.items():
    _Checker.checks(_name)(
        lambda value, p=_pattern: not isinstance(value, str) or re.search(p, value) is not None
    )


def check_well_formed(schema: Any) -> None:
    """Raise UsageError if a keyword of the schema has an invalid value."""
    if not isinstance(schema, Mapping | bool):
        raise UsageError("schema #: must be an object")
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        text.encode()
        fault = _known_fault(text) if len(text) < _CACHED_SIZE else _fault(schema)
    except RecursionError as error:
        raise UsageError("schema #: it is nested too deeply") from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"schema #: it is no JSON: {_one_line(str(error))}") from error
    if fault:
        raise UsageError(fault)


@lru_cache(maxsize=256)  # clients send the same tools with every request
def _known_fault(text: str) -> str:
    return _fault(json.loads(text))


def _fault(schema: Any) -> str:
    try:
        _kind(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        return f"schema {_pointer(error)}: {_one_line(error.message)}"
    return ""


def validate(schema: Any, text: str) -> None:
    """Raise ValueError, in one line, if the text is no JSON or does not follow the schema."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the answer is no JSON: {_one_line(str(error))}") from error
    fault = jsonschema.exceptions.best_match(_validator(schema).iter_errors(value))
    if fault is not None:
        place, problem = _pointer(fault), _one_line(fault.message)
        raise ValueError(f"the answer does not follow the schema at {place}: {problem}")


def conforming(root: Any, schema: Any, values: Sequence[Any]) -> list[Any]:
    """Return those values that follow a schema that is a part of `root`."""
    try:
        validator = _validator(root).evolve(schema=schema)
        return [value for value in values if validator.is_valid(value)]
    except (referencing.exceptions.Unresolvable, RecursionError):
        return []


def _validator(schema: Any) -> Any:
    return _kind(schema)(schema, registry=referencing.Registry(), format_checker=_Checker)


def _kind(schema: Any) -> Any:
    return validators.validator_for(schema, default=jsonschema.Draft202012Validator)


def _pointer(error: jsonschema.ValidationError | jsonschema.SchemaError) -> str:
    return "#" + "".join(f"/{part}" for part in error.absolute_path)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
