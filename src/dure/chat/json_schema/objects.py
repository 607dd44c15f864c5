"""Objects and arrays as grammar: commas, members that may be left out, names that are taken.

Knows JSON's punctuation and how much white space a model may write. Refuses to know schemas.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dure.chat.json_schema.rules import Rules, any_of, characters, literal, sequence

__all__ = ["ObjectMember", "array_of", "closed_object", "gap", "open_object"]

_NAME_CHARACTER = r'[^"\\\x00-\x1F]'  # without escapes: no name can be written in two ways


@dataclass(frozen=True)
class ObjectMember:
    """A property: its name, the rule of its value, and whether it must be there."""

    name: str
    rule: str
    required: bool


def gap(rules: Rules) -> str:
    """The name of a rule for the space between parts: one line's indentation at most."""
    return rules.add("gap-in-json", '(" " | "\\n" [ \\t]{0,40})?')


def closed_object(rules: Rules, members: Sequence[ObjectMember]) -> str:
    """An object of these members, in this order."""
    space = gap(rules)
    body = _members(rules, [(_pair(rules, m), m.required) for m in members])
    empty = not any(m.required for m in members)
    inner = sequence(body, space) if body else ""
    if empty and inner:
        inner = f"({inner})?"
    return sequence('"{"', space, inner, '"}"')


def open_object(rules: Rules, members: Sequence[ObjectMember], value: str, text: str) -> str:
    """An object of these members, then of others; `text`: the rule of a JSON string."""
    name = _other_name(rules, [m.name for m in members]) if members else text
    other = rules.add("other-member", sequence(name, '":"', gap(rules), value))
    comma = _comma(rules)
    more = rules.add("other-members", f"({comma} {other})*")
    pairs = [(_pair(rules, m), m.required) for m in members]
    space = gap(rules)
    listed = _members(rules, pairs)
    options = [sequence(listed, more)] if listed else []
    if not any(m.required for m in members):
        options.append(sequence(other, more))
        return sequence('"{"', space, f"({any_of(options)} {space})?", '"}"')
    return sequence('"{"', space, any_of(options), space, '"}"')


def array_of(rules: Rules, first: Sequence[str], rest: str, least: int, most: int | None) -> str:
    """An array of `first`, then of any number of `rest` ("" of none), within the bounds."""
    space = gap(rules)
    if most == 0 or (not first and not rest):
        return sequence('"["', space, '"]"')
    n = len(first) if most is None else min(len(first), most)
    inner = _tail(rules, rest, max(0, least - n), None if most is None else most - n, led=n > 0)
    for i in range(n - 1, -1, -1):
        lead = _comma(rules) if i else ""
        inner = rules.add("items", sequence(lead, first[i], inner))
        if i >= least:
            inner = f"{inner}?"
    return sequence('"["', space, inner, space, '"]"')


def _tail(rules: Rules, rest: str, least: int, most: int | None, *, led: bool) -> str:
    """What follows; led: an item stands before it."""
    if not rest or most == 0:
        return ""
    more = rules.add("more-items", sequence(_comma(rules), rest))
    if led:
        return rules.repeat("the items", more, least, most)
    others = rules.repeat("the items", more, max(0, least - 1), None if most is None else most - 1)
    whole = sequence(rest, others)
    return whole if least else f"({whole})?"


def _comma(rules: Rules) -> str:
    return rules.add("comma", sequence('","', gap(rules)))


def _pair(rules: Rules, member: ObjectMember) -> str:
    name = literal(json.dumps(member.name, ensure_ascii=False))
    return rules.add(f"{member.name}-member", sequence(name, '":"', gap(rules), member.rule))


def _members(rules: Rules, pairs: Sequence[tuple[str, bool]]) -> str:
    """One member or more in order, "" where there are none; who comes first has no comma."""
    tails = _tails(rules, pairs)
    options = []
    for i, (pair, required) in enumerate(pairs):
        options.append(sequence(pair, tails[i + 1]))
        if required:
            break
    return any_of(options) if options else ""


def _tails(rules: Rules, pairs: Sequence[tuple[str, bool]]) -> list[str]:
    """For every place, what may still follow a member before it."""
    tails, comma = [""], _comma(rules) if pairs else ""
    for pair, required in reversed(pairs):
        member = f"{comma} {pair}" if required else f"({comma} {pair})?"
        tails.append(rules.add("members", sequence(member, tails[-1])))
    return tails[::-1]


def _other_name(rules: Rules, taken: Sequence[str]) -> str:
    """A rule for the names that are not taken: a letter tree of these, left at every place but the ends."""
    written = [name for name in taken if json.dumps(name, ensure_ascii=False)[1:-1] == name]
    body = _branch(rules, sorted(set(written)))
    return rules.add("other-name", sequence('"\\""', body))


def _branch(rules: Rules, taken: Sequence[str]) -> str:
    if not taken:
        return f'{_NAME_CHARACTER}* "\\""'
    options = [] if "" in taken else ['"\\""']
    letters = sorted({name[0] for name in taken if name})
    for letter in letters:
        after = [name[1:] for name in taken if name[:1] == letter]
        options.append(sequence(literal(letter), rules.add("name-part", _branch(rules, after))))
    others = characters("".join(letters), negated=True)[:-1] + r'"\\\x00-\x1F]'
    options.append(f'{others} {_NAME_CHARACTER}* "\\""')
    return any_of(options)
