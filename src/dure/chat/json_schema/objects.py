"""Writes grammar expressions for objects and arrays: commas, optional members, names of other members.

Knows JSON's punctuation and how much white space a model may write. Refuses to know schemas.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dure.chat.json_schema.beginnings import Texts
from dure.chat.json_schema.rules import Rules, any_of, characters, literal, sequence

__all__ = ["ObjectMember", "array_of", "closed_object", "gap", "open_object"]

_NAME_CHARACTER = r'[^"\\\x00-\x1F]'  # no escapes, so that a name can be written in one way only


@dataclass(frozen=True)
class ObjectMember:
    """A property: its name, the rule of its value, and whether it is required."""

    name: str
    rule: str
    required: bool


def gap(rules: Rules) -> str:
    """Return the name of a rule for white space between parts: at most a line break and an indent."""
    return rules.add("gap-in-json", '(" " | "\\n" [ \\t]{0,40})?')


def closed_object(rules: Rules, members: Sequence[ObjectMember]) -> str:
    """Return an expression for an object of these members, in this order."""
    space = gap(rules)
    inner = sequence(body, space) if (body := _members(rules, members, "")) else ""
    if inner and not any(m.required for m in members):
        inner = f"({inner})?"
    return sequence('"{"', space, inner, '"}"')


def open_object(rules: Rules, members: Sequence[ObjectMember], value: str, text: str) -> str:
    """Return an expression for an object of these members and any others after them.

    value: the rule of the others' values. text: the rule of a JSON string.
    """
    name = _other_name(rules, [m.name for m in members]) if members else text
    other = rules.add("other-member", sequence(name, '":"', gap(rules), value))
    more = rules.add("other-members", f"({_comma(rules)} {other})*")
    space, listed = gap(rules), _members(rules, members, more)
    if any(m.required for m in members):
        return sequence('"{"', space, listed, space, '"}"')
    options = [*([listed] if listed else []), sequence(other, more)]
    return sequence('"{"', space, f"({any_of(options)} {space})?", '"}"')


def array_of(rules: Rules, first: Sequence[str], rest: str, least: int, most: int | None) -> str:
    """Return an expression for an array of `first`, then items of `rest`, if not "".

    least, most: number of items in all.
    """
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
    """Return an expression for the items after the first ones. led: an item comes before them."""
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


def _members(rules: Rules, members: Sequence[ObjectMember], more: str) -> str:
    """Return an expression for one or more members in order, "" if there are none. more: what follows.

    A member is followed by one of those up to the next required one: a set of names that grows from the
    last to the first, so that the grammar's size does not grow with the square of their number.
    """
    following, names, may_end = more, Texts(rules), True
    for member in reversed(members):
        pair = sequence('":"', gap(rules), member.rule, following)
        if member.required:
            names, may_end = Texts(rules), False
        names.add(json.dumps(member.name, ensure_ascii=False), rules.add("member", pair))
        next_ = sequence(_comma(rules), names.expression())
        options = [more, next_] if may_end else [next_]
        following = rules.add("members", any_of(options, group=False))
    return names.expression()


def _other_name(rules: Rules, taken: Sequence[str]) -> str:
    """Return the name of a rule for names that are not taken: a trie of the taken ones."""
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
