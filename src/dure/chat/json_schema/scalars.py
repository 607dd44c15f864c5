"""Converts schemas of texts and numbers to rules: lengths, patterns, formats, bounds, multiples.

Refuses to know schemas within schemas: see `converter`.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from dure.chat.json_schema.formats import FORMATS
from dure.chat.json_schema.numbers import Bounds, integers, multiples, numbers
from dure.chat.json_schema.pattern import CHARACTER, pattern_rule
from dure.chat.json_schema.rules import Rules, any_of, literal, sequence
from dure.errors import UsageError

__all__ = ["character_rule", "number_rule", "string_rule", "whole_number"]

_REMAINDERS = 200  # the largest multipleOf whose remainder is tracked digit by digit


def character_rule(rules: Rules) -> str:
    """Return the name of a rule for one character of a text."""
    return rules.add("character", CHARACTER)


def string_rule(rules: Rules, schema: Mapping[str, Any], place: str, *, strict: bool) -> str:
    """Return the body of a rule for texts. strict: raise for what no grammar can express."""
    pattern, form = schema.get("pattern"), schema.get("format")
    least, most = int(schema.get("minLength", 0)), whole_number(schema.get("maxLength"))
    if most is not None and least > most:
        raise UsageError(
            f"schema {place}: no text has {least} characters at least and {most} at most"
        )
    if form is not None and pattern is None:
        if form in FORMATS:
            pattern = FORMATS[form]
        elif strict:
            raise UsageError(
                f"schema {place}: the format {form!r} is not supported", f"use {', '.join(FORMATS)}"
            )
    if pattern is None:
        inner = rules.repeat(f"schema {place}", character_rule(rules), least, most)
    else:
        for other in ("minLength", "maxLength", "format"):
            if strict and other in schema and schema.get("pattern", other) != other:
                raise UsageError(
                    f"schema {place}: {other!r} beside 'pattern' is not supported",
                    "make it part of the pattern",
                )
        inner = pattern_rule(rules, pattern, f"schema {place}/pattern")
    return sequence('"\\""', inner, '"\\""')


def number_rule(rules: Rules, kind: str, schema: Mapping[str, Any], place: str) -> str:
    """Return the body of a rule for numbers. kind: "number" or "integer"."""
    bounds = _bounds(schema)
    step = schema.get("multipleOf")
    if step is not None:
        return _multiples(rules, kind, Decimal(str(step)), bounds, place)
    if kind == "number" and bounds.free:
        return rules.add("number", numbers(bounds))
    text = integers(bounds) if kind == "integer" else numbers(bounds)
    if not text:
        raise UsageError(f"schema {place}: no {kind} lies within these bounds")
    return text


def _multiples(rules: Rules, kind: str, step: Decimal, bounds: Bounds, place: str) -> str:
    if kind == "number" and step != step.to_integral_value():
        raise UsageError(f"schema {place}: multipleOf {step} is not supported for numbers")
    if step != step.to_integral_value():
        raise UsageError(
            f"schema {place}: multipleOf {step} is not supported", "use a whole number"
        )
    of = int(step)
    if of == 1:
        return integers(bounds)
    listed = multiples(bounds, of)
    if listed is not None:
        if not listed:
            raise UsageError(f"schema {place}: no multiple of {of} lies within these bounds")
        return any_of([literal(str(n)) for n in listed], group=False)
    if not bounds.free or of > _REMAINDERS:
        raise UsageError(f"schema {place}: multipleOf {of} is not supported with these bounds")
    return f'"-"? {_remainders(rules, of)}'


def _remainders(rules: Rules, of: int) -> str:
    """Return an expression for the multiples of a number: a rule per remainder, digit by digit."""
    names = [rules.reserve(f"remainder-{r}-of-{of}") for r in range(of)]
    for r, name in enumerate(names):
        steps = [f"[{d}] {names[(r * 10 + d) % of]}" for d in range(10)]
        rules.define(name, any_of((['""'] if r == 0 else []) + steps, group=False))
    first = [f"[{d}] {names[d % of]}" for d in range(1, 10)]
    return any_of(['"0"', *first])


def _bounds(schema: Mapping[str, Any]) -> Bounds:
    def read(closed: str, opened: str, sign: int) -> tuple[Decimal | None, bool]:
        found = [
            (sign * Decimal(str(schema[key])), key == opened)
            for key in (closed, opened)
            if key in schema
        ]
        if not found:
            return None, False
        bound, is_open = max(found)
        return sign * bound, is_open

    low, low_open = read("minimum", "exclusiveMinimum", 1)
    high, high_open = read("maximum", "exclusiveMaximum", -1)
    return Bounds(low, high, low_open, high_open)


def whole_number(number: float | None) -> int | None:
    """Return a count, which JSON may write as 2.0."""
    return None if number is None else int(number)
