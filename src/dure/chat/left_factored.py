"""Joins alternatives of a grammar that begin alike, and writes grammars.

llama.cpp follows every alternative on its own, for every candidate token: 3,000 of them take 3,000 times
as long as one, though most are refused by their first character. Refuses to know what a grammar is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, groupby

from dure.chat.gbnf import Characters, Group, Item, Mark, Reference, Repeat, Rule

__all__ = ["left_factored", "write_gbnf"]

FEW = 32  # alternatives that are left as they are


def left_factored(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Return rules for the same texts; of many alternatives no two begin with the same item."""
    many = [name for name, rule in rules.items() if _has_many(rule)]
    factoring = _Factoring(rules)
    for name in many:
        factoring.factor(name)
    return factoring.rules


def _has_many(rule: Rule) -> bool:
    return len(rule) > FEW or any(
        isinstance(item, Repeat | Group) and _has_many_within(item)
        for items in rule
        for item in items
    )


def _has_many_within(item: Item) -> bool:
    match item:
        case Repeat(repeated):
            return _has_many_within(repeated)
        case Group(options):
            return _has_many(options)
    return False


class _Factoring:
    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self.rules = dict(rules)
        self._names = (name for n in count(1) if (name := f"alike-{n}") not in rules)

    def factor(self, name: str) -> None:
        """Factor a rule, and those that come of it."""
        self.rules[name] = self._outlined(self.rules[name])
        unfactored = [name]
        while unfactored:
            name = unfactored.pop()
            if len(self.rules[name]) > FEW:
                unfactored += self._join(name)

    def _outlined(self, rule: Rule) -> Rule:
        """Give groups of many alternatives rules of their own."""
        return tuple(tuple(map(self._outlined_item, items)) for items in rule)

    def _outlined_item(self, item: Item) -> Item:
        match item:
            case Repeat(repeated, least, most):
                return Repeat(self._outlined_item(repeated), least, most)
            case Group(options) if len(options) > FEW:
                return self._new(options)
            case Group(options):
                return Group(self._outlined(options))
        return item

    def _new(self, options: Rule) -> Reference:
        name = next(self._names)
        self.rules[name] = options
        self.factor(name)
        return Reference(name)

    def _join(self, name: str) -> Iterator[str]:
        """Join the alternatives that begin alike; yield the rules of how they go on."""
        alike: dict[Item | None, list[tuple[Item, ...]]] = {}
        for items in dict.fromkeys(self.rules[name]):
            alike.setdefault(items[0] if items else None, []).append(items)
        options = []
        for several in alike.values():
            if len(several) == 1:
                options += several
                continue
            n = _n_alike(several)
            rest = next(self._names)
            self.rules[rest] = tuple(items[n:] for items in several)
            options.append((*several[0][:n], Reference(rest)))
            yield rest
        self.rules[name] = tuple(options)


def _n_alike(several: Sequence[tuple[Item, ...]]) -> int:
    """Count the items that all of several sequences begin with."""
    return next(
        (i for i, column in enumerate(zip(*several, strict=False)) if len({*column}) > 1),
        min(map(len, several)),
    )


def write_gbnf(rules: Mapping[str, Rule]) -> str:
    """Return the text of a grammar, which `read_gbnf` reads."""
    return "".join(f"{name} ::= {_options(rule)}\n" for name, rule in rules.items())


def _options(rule: Rule) -> str:
    return " | ".join(_sequence(items) or '""' for items in rule)


def _sequence(items: Sequence[Item]) -> str:
    parts: list[str] = []
    for is_text, run in groupby(items, lambda item: _character(item) is not None):
        written = [_escaped(_character(item) or 0) if is_text else _written(item) for item in run]
        parts += [f'"{"".join(written)}"'] if is_text else written
    return " ".join(parts)


def _character(item: Item) -> int | None:
    """Return the code of an item that is exactly one character, else None."""
    match item:
        case Characters(((low, high),), negated=False) if low == high:
            return low
    return None


def _written(item: Item) -> str:
    match item:
        case Characters((), negated=True):
            return "."
        case Characters(ranges, negated):
            inner = "".join(f"{_escaped(low)}-{_escaped(high)}" for low, high in ranges)
            return f"[^{inner}]" if negated else f"[{inner}]"
        case Mark(text):
            return text
        case Reference(name):
            return name
        case Group(options):
            return f"({_options(options)})"
        case Repeat(repeated, least, most):
            return f"{_written(repeated)}{{{least},{'' if most is None else most}}}"


def _escaped(code: int) -> str:
    if code == 0x20 or (code < 0x80 and chr(code).isalnum()):
        return chr(code)
    return f"\\U{code:08X}"
