"""Merges two schemas into one whose values follow both.

Knows which keywords can be merged. Refuses to know grammars.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["ANNOTATIONS", "ImpossibleError", "merged"]

Schema = Mapping[str, Any]
ANNOTATIONS = frozenset(
    {
        *("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default"),
        *("examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator"),
    }
)
_LARGER = {"minimum", "exclusiveMinimum", "minLength", "minItems"}
_SMALLER = {"maximum", "exclusiveMaximum", "maxLength", "maxItems"}
_ALTERNATIVES_LIMIT = 64


class ImpossibleError(ValueError):
    """Two schemas cannot be merged; the text names the keyword."""


def merged(one: Schema, other: Schema) -> dict[str, Any]:
    """Return a schema whose values follow both. Raises ImpossibleError naming the keyword."""
    result = dict(one)
    for key, value in other.items():
        if key in ANNOTATIONS or key not in result:
            result.setdefault(key, value)
        elif not _same(result[key], value):
            result[key] = _joined(key, result[key], value)
    if any(schema.get("additionalProperties") is False for schema in (one, other)):
        _close(result, one, other)
    return result


def _joined(key: str, a: Any, b: Any) -> Any:
    if key in _LARGER:
        return max(a, b)
    if key in _SMALLER:
        return min(a, b)
    join = _JOINS.get(key)
    if join is None:
        raise ImpossibleError(f"two different values of {key!r} in allOf are not supported")
    return join(a, b)


def _types(a: Any, b: Any) -> Any:
    first, second = _listed(a), _listed(b)
    shared = [t for t in first if t in second or (t == "integer" and "number" in second)]
    shared += [t for t in second if t == "integer" and "number" in first and t not in shared]
    if not shared:
        raise ImpossibleError(f"no value is both of type {a} and {b}")
    return shared


def _enums(a: Any, b: Any) -> Any:
    shared = [x for x in a if any(_same(x, y) for y in b)]
    if not shared:
        raise ImpossibleError("no value is in both enums")
    return shared


def _properties(a: Schema, b: Schema) -> Schema:
    result = dict(a)
    for name, schema in b.items():
        result[name] = both(result[name], schema) if name in result else schema
    return result


def both(a: Any, b: Any) -> Any:
    """Return a schema whose values follow both; either may be true or false."""
    if a is True or b is False:
        return b
    if b is True or a is False:
        return a
    return {"allOf": [a, b]}


def _alternatives(a: list[Any], b: list[Any]) -> list[Any]:
    if len(a) * len(b) > _ALTERNATIVES_LIMIT:
        raise ImpossibleError(f"more than {_ALTERNATIVES_LIMIT} combinations are not supported")
    return [both(x, y) for x in a for y in b]


def _close(result: dict[str, Any], one: Schema, other: Schema) -> None:
    """Keep only the properties that every closed object of the two lists."""
    names = dict(result.get("properties", {}))
    for closed in (one, other):
        if closed.get("additionalProperties") is False:
            own = closed.get("properties", {})
            names = {name: schema for name, schema in names.items() if name in own}
    lost = [name for name in result.get("required", ()) if name not in names]
    if lost and any(s.get("additionalProperties") is False for s in (one, other)):
        raise ImpossibleError(f"the property {lost[0]!r} is required, and not allowed")
    result["properties"] = names


_JOINS: dict[str, Callable[[Any, Any], Any]] = {
    "type": _types,
    "enum": _enums,
    "properties": _properties,
    "required": lambda a, b: list(dict.fromkeys([*a, *b])),
    "items": both,
    "additionalProperties": both,
    "anyOf": _alternatives,
    "oneOf": _alternatives,
    "allOf": lambda a, b: [*a, *b],
}


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value)


def _same(a: Any, b: Any) -> bool:
    """Compare as JSON, where 1 and true differ, unlike in Python."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
