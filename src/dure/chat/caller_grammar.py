"""Checks a grammar: whether llama.cpp can follow it, and at what cost.

llama.cpp does not bound nesting, repetition and recursion, and a bad grammar may end its process. So
they are bounded here first. Alternatives that begin alike are joined. Refuses to know chats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from dure.chat.answer_grammar import after_lead
from dure.chat.gbnf import Characters, Group, Item, Reference, Repeat, Rule, read_gbnf
from dure.chat.json_schema.rules import Rules
from dure.chat.left_factored import left_factored, write_gbnf
from dure.chat.plan import Plan
from dure.errors import UsageError
from dure.generate.request import Grammar
from dure.model.vocabulary import Vocabulary

__all__ = ["checked_grammar", "checked_rules", "wrapped"]

SIZE_LIMIT = 1 << 18  # characters of a caller's grammar
ELEMENT_LIMIT = 1 << 19  # once repetitions are expanded
REPEAT_LIMIT = 2000  # llama.cpp's own; it reads more as "no limit"
WALK_LIMIT = 1 << 16  # rules that llama.cpp visits in its search for left recursion
CHAIN_LIMIT = 1 << 11  # rules that begin with each other; llama.cpp's search is recursive


def wrapped(gbnf: str, plan: Plan) -> Grammar:
    """Return the caller's grammar for the answer, after reasoning if the plan has any."""
    plan = replace(plan, rules=Rules("dure-"))
    body = after_lead(plan, "root")
    if body == "root":
        return Grammar(gbnf)
    root = plan.rules.define(plan.rules.reserve("answer"), body)
    return Grammar(f"{gbnf}\n{plan.rules.lines()}", root=root)


def checked_grammar(vocabulary: Vocabulary, gbnf: str) -> str:
    """Return a caller's grammar as llama.cpp can follow it. Raises UsageError naming what it cannot."""
    if len(gbnf) > SIZE_LIMIT:
        raise UsageError(
            f"grammar: {len(gbnf)} characters are more than {SIZE_LIMIT}", "make it smaller"
        )
    if "\0" in gbnf:
        raise UsageError("grammar: it has a NUL character", "write \\x00")
    try:
        gbnf.encode()
    except UnicodeEncodeError as error:
        raise UsageError("grammar: it has half of a surrogate pair, which is no text") from error
    gbnf = checked_rules(gbnf)
    if not vocabulary.accepts_grammar(gbnf):
        raise UsageError("grammar: llama.cpp cannot follow it", "look for tokens it does not know")
    return gbnf


def checked_rules(gbnf: str) -> str:
    """Return a grammar whose alternatives are few at any point, if that can be.

    Raises UsageError if rules are missing, endless, or too large once expanded.
    """
    rules = read_gbnf(gbnf)
    factored = left_factored(rules)
    _check_rules(factored)
    return gbnf if factored == rules else write_gbnf(factored)


def _check_rules(rules: Mapping[str, Rule]) -> None:
    if "root" not in rules:
        raise UsageError("grammar: there is no rule `root`", "name the first rule so")
    for name, rule in rules.items():
        for reference in _references(rule):
            if reference not in rules:
                raise UsageError(
                    f"grammar: the rule {name!r} names {reference!r}, which does not exist"
                )
    if sum(_size(rule) for rule in rules.values()) > ELEMENT_LIMIT:
        raise UsageError("grammar: its repetitions make it too large", "reduce their counts")
    _Beginnings(rules).check()


def _references(rule: Rule) -> Iterator[str]:
    for items in rule:
        for item in items:
            if not isinstance(item, Characters):
                yield from _references_of(item)


def _references_of(item: Item) -> Iterator[str]:
    match item:
        case Reference(name):
            yield name
        case Repeat(repeated):
            yield from _references_of(repeated)
        case Group(options):
            yield from _references(options)


def _size(rule: Rule) -> int:
    """Return how many elements llama.cpp makes of a rule."""
    return sum(1 + sum(_size_of(item) for item in items) for items in rule)


def _size_of(item: Item) -> int:
    match item:
        case Repeat(repeated, least, most):
            if max(least, most or 0) > REPEAT_LIMIT:
                raise UsageError(
                    f"grammar: a repetition of more than {REPEAT_LIMIT} is not supported"
                )
            if most is not None and most < least:
                raise UsageError(f"grammar: {{{least},{most}}} repeats at least more than at most")
            return (_size_of(repeated) + 2) * max(1, least, most or 0)
        case Group(options):
            return 1 + _size(options)
    return 1


class _Beginnings:
    """The rules that each rule may begin with.

    A rule that begins with itself (left recursion) puts llama.cpp into an endless loop.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = rules
        self._empty = self._nullable()

    def check(self) -> None:
        edges = {name: list(self._first(rule)) for name, rule in self._rules.items()}
        walks: dict[str, int] = {}
        for name in edges:
            self._walk(name, edges, walks)

    def _walk(self, start: str, edges: Mapping[str, list[str]], walks: dict[str, int]) -> None:
        """Count, depth first, how often llama.cpp visits a rule and those it begins with."""
        stack = [(start, iter(edges[start]))]
        path = {start}
        while stack:
            name, rest = stack[-1]
            following = next((n for n in rest if n not in walks), None)
            if following is None:
                stack.pop()
                path.discard(name)
                walks[name] = 1 + sum(walks[n] for n in edges[name])
                if walks[name] > WALK_LIMIT:
                    raise UsageError(f"grammar: the rule {name!r} may begin in too many ways")
            elif following in path:
                raise UsageError(f"grammar: the rule {following!r} may begin with itself")
            elif len(stack) > CHAIN_LIMIT:
                raise UsageError("grammar: too many rules begin with each other")
            else:
                stack.append((following, iter(edges[following])))
                path.add(following)

    def _nullable(self) -> set[str]:
        """Return the rules that allow the empty text; a rule is rechecked when one it names allows it."""
        users: dict[str, set[str]] = {name: set() for name in self._rules}
        for name, rule in self._rules.items():
            for reference in _references(rule):
                users[reference].add(name)
        empty: set[str] = set()
        unchecked = set(self._rules)
        while unchecked:
            more = {n for n in unchecked - empty if _any_empty(self._rules[n], empty)}
            empty |= more
            unchecked = set().union(*(users[name] for name in more))
        return empty

    def _first(self, rule: Rule) -> Iterator[str]:
        for items in rule:
            for item in items:
                yield from self._first_of(item)
                if not _is_empty(item, self._empty):
                    break

    def _first_of(self, item: Item) -> Iterator[str]:
        match item:
            case Reference(name):
                yield name
            case Repeat(repeated):
                yield from self._first_of(repeated)
            case Group(options):
                yield from self._first(options)


def _any_empty(rule: Rule, empty: set[str]) -> bool:
    return any(all(_is_empty(item, empty) for item in items) for items in rule)


def _is_empty(item: Item, empty: set[str]) -> bool:
    match item:
        case Reference(name):
            return name in empty
        case Repeat(repeated, least, _):
            return least == 0 or _is_empty(repeated, empty)
        case Group(options):
            return _any_empty(options, empty)
    return False
