"""Converts a JSON schema to grammar rules, which allow only JSON values that follow the schema.

Knows the keywords that a grammar can express, and names the first that it cannot. An object that lists
properties without mentioning others is closed, and its properties come in the schema's order, as with
OpenAI. Refuses to know what the schema is for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from dure.chat.json_schema import objects
from dure.chat.json_schema.beginnings import Texts
from dure.chat.json_schema.merge import ANNOTATIONS, ImpossibleError, merged
from dure.chat.json_schema.numbers import Bounds, numbers
from dure.chat.json_schema.rules import SIZE_LIMIT, Rules, any_of
from dure.chat.json_schema.scalars import character_rule, number_rule, string_rule, whole_number
from dure.errors import UsageError

__all__ = ["Converter"]

_KEYWORDS: dict[str, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_APPLIES = {key: kind for kind, keys in _KEYWORDS.items() for key in keys}
_GENERAL = frozenset({"type", "enum", "const", "allOf", "anyOf", "oneOf", "$ref"})
_IDLE: dict[str, Any] = {
    "uniqueItems": False,
    "minProperties": 0,
    "minContains": 0,
    "nullable": False,
}
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_DEPTH_LIMIT = 64  # nested schemas without a reference between them
_JOIN_LIMIT = 5000  # of one schema with another


class Converter:
    """Writes the rules of one schema.

    strict: raise UsageError, naming keyword and JSON pointer, for what no grammar can express; else allow
    any value there.
    """

    def __init__(self, rules: Rules, root: Any, *, strict: bool = True) -> None:
        self._rules, self._root, self._strict = rules, root, strict
        self._references: dict[str, str] = {}
        self._direct: set[str] = set()  # references followed since the last container
        self._depth = self._nested = self._joins = 0

    def value(self, schema: Any, place: str = "#") -> str:
        """Return the name of a rule for the values of a schema. place: its JSON pointer."""
        self._depth += 1
        try:
            if self._depth > _DEPTH_LIMIT:
                raise UsageError(f"schema {place}: it is nested too deeply")
            return self._value(schema, place)
        except UsageError:
            if self._strict:
                raise
            is_object = isinstance(schema, Mapping) and schema.get("type") == "object"
            return self.any_object() if is_object else self.anything()
        finally:
            self._depth -= 1

    def _value(self, schema: Any, place: str) -> str:
        if schema is True:
            return self.anything()
        if schema is False:
            raise UsageError(f"schema {place}: `false` allows no value")
        self._check(schema, place)
        if "$ref" in schema and not set(schema) - ANNOTATIONS - {"$ref"}:
            return self._reference(schema["$ref"], place)
        if "enum" in schema or "const" in schema:
            return self._listed(schema, place)
        for key in ("$ref", "allOf", "anyOf", "oneOf"):
            if key in schema:
                return self._combined(key, schema, place)
        kinds = self._kinds(schema)
        return self._rules.add(
            _hint(place), any_of([self._of(kind, schema, place) for kind in kinds], group=False)
        )

    # -- the content of a schema

    def _check(self, schema: Any, place: str) -> None:
        if not isinstance(schema, Mapping):
            raise UsageError(f"schema {place}: must be an object, true or false")
        if not self._strict:
            return
        for key, value in schema.items():
            known = key in ANNOTATIONS or key in _GENERAL or key in _APPLIES
            idle = key in _IDLE and value == _IDLE[key]
            if not known and not idle and not key.startswith("x-"):
                raise UsageError(f"schema {place}: the keyword {key!r} is not supported")

    def _kinds(self, schema: Mapping[str, Any]) -> list[str]:
        """Return the types that a value may have, implied by the keywords if `type` is missing."""
        types = schema.get("type")
        if types is not None:
            return [types] if isinstance(types, str) else list(types)
        implied = [kind for kind in _KEYWORDS if any(key in schema for key in _KEYWORDS[kind])]
        return implied or ["anything"]

    def _of(self, kind: str, schema: Mapping[str, Any], place: str) -> str:
        match kind:
            case "object" | "array":
                return self._container(kind, schema, place)
            case "string":
                return string_rule(self._rules, schema, place, strict=self._strict)
            case "number" | "integer":
                return number_rule(self._rules, kind, schema, place)
            case "boolean":
                return '"true" | "false"'
            case "null":
                return '"null"'
            case "anything":
                return self.anything()
        raise UsageError(f"schema {place}: the type {kind!r} is not known")

    def _reference(self, reference: str, place: str) -> str:
        if reference in self._direct:
            raise UsageError(f"schema {place}: $ref {reference!r} leads back to itself")
        known = self._references.get(reference)
        if known is not None:
            return known
        target = self._resolve(reference, place)
        if self._nested == _DEPTH_LIMIT:
            raise UsageError(f"schema {place}: references are nested too deeply")
        known = self._references[reference] = self._rules.reserve(reference)
        depth, direct = self._depth, self._direct
        self._depth, self._nested, self._direct = 0, self._nested + 1, {*direct, reference}
        try:
            return self._rules.define(known, self.value(target, reference))
        finally:
            self._depth, self._nested, self._direct = depth, self._nested - 1, direct

    def _resolve(self, reference: Any, place: str) -> Any:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise UsageError(
                f"schema {place}: $ref {reference!r} is not supported",
                "point into this schema (#/...)",
            )
        at = self._root
        for part in reference.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(at, list) and key.isdigit() and int(key) < len(at):
                at = at[int(key)]
            elif isinstance(at, Mapping) and key in at:
                at = at[key]
            else:
                raise UsageError(f"schema {place}: $ref {reference!r} points to nothing")
        return at

    def _combined(self, key: str, schema: Mapping[str, Any], place: str) -> str:
        rest = {k: v for k, v in schema.items() if k != key}
        try:
            if key == "$ref":
                target = self._resolve(schema[key], place)
                return self.value(self._joined(self._joined({}, target), rest), place)
            if key == "allOf":
                whole: dict[str, Any] = {}
                for i, part in enumerate(schema[key]):
                    whole = self._joined(whole, part, f"{place}/allOf/{i}")
                return self.value(self._joined(whole, rest), place)
            options = [self._joined(rest, part) for part in schema[key]]
        except ImpossibleError as error:
            raise UsageError(f"schema {place}/{key}: {error}") from error
        rules = [self.value(option, f"{place}/{key}/{i}") for i, option in enumerate(options)]
        return self._rules.add(_hint(place), any_of(rules, group=False))

    def _joined(self, base: Mapping[str, Any], part: Any, place: str = "") -> dict[str, Any]:
        self._joins += 1
        if self._joins > _JOIN_LIMIT:
            raise ImpossibleError(f"more than {_JOIN_LIMIT} combinations are not supported")
        if part is True:
            return dict(base)
        if not isinstance(part, Mapping):
            raise ImpossibleError(f"{json.dumps(part)} allows no value")
        if place:
            self._check(part, place)
        if "$ref" in part and set(base) - ANNOTATIONS:
            target = self._resolve(part["$ref"], place or "#")
            rest = {k: v for k, v in part.items() if k != "$ref"}
            part = self._joined(self._joined({}, target), rest)
        return merged(base, part)

    def _listed(self, schema: Mapping[str, Any], place: str) -> str:
        from dure.chat.json_schema.validate import conforming

        key = "enum" if "enum" in schema else "const"
        values = schema["enum"] if key == "enum" else [schema["const"]]
        rest = {k: v for k, v in schema.items() if k != key}
        fitting = conforming(self._root, rest, values)
        if not fitting:
            raise UsageError(f"schema {place}: none of the values listed follows the schema")
        texts = list(dict.fromkeys(json.dumps(v, ensure_ascii=False) for v in fitting))
        n = sum(map(len, texts))
        if n > SIZE_LIMIT:
            raise UsageError(
                f"schema {place}: {n} characters of listed values make too large a grammar, "
                f"of more than {SIZE_LIMIT}",
                "list fewer or shorter ones",
            )
        listed = Texts(self._rules)
        for text in texts:
            listed.add(text)
        return self._rules.add(_hint(place), listed.expression())

    # -- values of one type

    def anything(self) -> str:
        """Return the name of a rule for any JSON value."""
        if "anything" in self._references:
            return self._references["anything"]
        name = self._references["anything"] = self._rules.reserve("value")
        array = self._rules.add("any-array", objects.array_of(self._rules, [], name, 0, None))
        any_object = self.any_object()
        number, text = self._rules.add("number", numbers(Bounds())), self._text()
        return self._rules.define(
            name, f'{any_object} | {array} | {text} | {number} | "true" | "false" | "null"'
        )

    def any_object(self) -> str:
        """Return the name of a rule for any JSON object."""
        body = objects.open_object(self._rules, [], self.anything(), self._text())
        return self._rules.add("any-object", body)

    def _text(self) -> str:
        return self._rules.add("text", f'"\\"" {character_rule(self._rules)}* "\\""')

    def _container(self, kind: str, schema: Mapping[str, Any], place: str) -> str:
        direct, self._direct = self._direct, set()
        write = self._object if kind == "object" else self._array
        try:
            return write(schema, place)
        finally:
            self._direct = direct

    def _object(self, schema: Mapping[str, Any], place: str) -> str:
        properties = dict(schema.get("properties", {}))
        required = list(dict.fromkeys(schema.get("required", ())))
        more = schema.get("additionalProperties", "properties" not in schema)
        for name in required:
            if name not in properties:
                if more is False:
                    raise UsageError(
                        f"schema {place}/required: {name!r} is not among the properties"
                    )
                properties[name] = more
        members = []
        for name, value in properties.items():
            if value is False and name not in required:
                continue
            rule = self.value(value, f"{place}/properties/{_pointer(name)}")
            members.append(objects.ObjectMember(name, rule, name in required))
        if more is False:
            return objects.closed_object(self._rules, members)
        rule = self.value(more, f"{place}/additionalProperties")
        return objects.open_object(self._rules, members, rule, self._text())

    def _array(self, schema: Mapping[str, Any], place: str) -> str:
        prefix, items = schema.get("prefixItems", []), schema.get("items", True)
        least, most = int(schema.get("minItems", 0)), whole_number(schema.get("maxItems"))
        if isinstance(items, list):
            raise UsageError(f"schema {place}/items: a list is not supported", "use prefixItems")
        if items is False:
            most = len(prefix) if most is None else min(most, len(prefix))
        if most is not None and least > most:
            raise UsageError(
                f"schema {place}: no array has {least} items at least and {most} at most"
            )
        first = [
            self.value(item, f"{place}/prefixItems/{i}") for i, item in enumerate(prefix[:most])
        ]
        rest = "" if items is False else self.value(items, f"{place}/items")
        return objects.array_of(self._rules, first, rest, least, most)


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _hint(place: str) -> str:
    return place.rpartition("/")[2] or "schema"
