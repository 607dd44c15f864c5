"""Writes the rules of a GBNF grammar.

Knows llama.cpp's syntax and its limits. Refuses to know JSON and schemas.
Source: llama.cpp `src/llama-grammar.cpp`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dure.errors import UsageError

__all__ = ["SIZE_LIMIT", "Rules", "any_of", "characters", "literal", "sequence"]

REPEAT_LIMIT = 1000  # llama.cpp refuses 2,000 and reads more as "unlimited"
LENGTH_LIMIT = 100_000
SIZE_LIMIT = 1 << 20  # characters of a grammar
_SPECIAL = re.compile(r"[^\w .,:/-]", re.ASCII)
_BARE = re.compile(r"[^\x00-\x1f\x7f\"\\\ud800-\udfff]")


class Rules:
    """Named rules. Each expression is written once, under one name."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._bodies: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}  # names so far, by their beginning
        self._size = 0

    def reserve(self, hint: str) -> str:
        """Return an unused name like `hint`, whose body comes later: rules may refer to themselves."""
        base = self._prefix + (re.sub(r"[^a-zA-Z0-9]+", "-", hint).strip("-")[:40] or "rule")
        n = self._counts.get(base, 0) + 1
        name = base if n == 1 else f"{base}-{n}"
        while name in self._bodies or name == "root":
            n += 1
            name = f"{base}-{n}"
        self._bodies[name], self._counts[base] = "", n
        return name

    def define(self, name: str, body: str) -> str:
        """Give a reserved name its body. Raises UsageError if the grammar becomes too large."""
        self._bodies[name] = body
        self._size += len(name) + len(body)
        if self._size > SIZE_LIMIT:
            raise UsageError(
                f"the schema makes too large a grammar, of more than {SIZE_LIMIT} characters",
                "make it smaller",
            )
        return name

    def add(self, hint: str, body: str) -> str:
        """Return the name of a rule with this body."""
        known = self._names.get(body)
        if known is None:
            known = self._names[body] = self.define(self.reserve(hint), body)
        return known

    def repeat(self, hint: str, item: str, least: int, most: int | None) -> str:
        """Return an expression for `least` to `most` items; `item`: a rule's name or a character class."""
        if max(least, most or 0) > LENGTH_LIMIT:
            raise UsageError(f"{hint}: a length of more than {LENGTH_LIMIT} is not supported")
        if most is None:
            return sequence(self._exactly(hint, item, least), item + "*")
        return sequence(self._exactly(hint, item, least), self._up_to(hint, item, most - least))

    def _exactly(self, hint: str, item: str, n: int) -> str:
        if n <= REPEAT_LIMIT:
            return _times(item, n, n)
        block = self.add(hint + "-block", _times(item, REPEAT_LIMIT, REPEAT_LIMIT))
        blocks, rest = divmod(n, REPEAT_LIMIT)
        return sequence(_times(block, blocks, blocks), _times(item, rest, rest))

    def _up_to(self, hint: str, item: str, n: int) -> str:
        if n <= REPEAT_LIMIT:
            return _times(item, 0, n)
        block = self.add(hint + "-block", _times(item, REPEAT_LIMIT, REPEAT_LIMIT))
        blocks, rest = divmod(n, REPEAT_LIMIT)
        partly = sequence(_times(block, 0, blocks - 1), _times(item, 0, REPEAT_LIMIT - 1))
        whole = sequence(_times(block, blocks, blocks), _times(item, 0, rest))
        return any_of([partly, whole])

    def without(self, text: str) -> str:
        """Return the name of a rule for any text that does not contain `text`.

        It has a rule per state: how much of `text` the characters so far have matched.
        """
        names = [self.reserve(f"until-{i}") for i in range(len(text))]
        for state, name in enumerate(names):
            self.define(name, self._steps(text, state, names))
        return names[0]

    def _steps(self, text: str, state: int, names: list[str]) -> str:
        after = {c: _matched(text, text[:state] + c) for c in sorted(set(text))}
        special = [c for c, matched in after.items() if matched]
        options = [f"{characters(c)} {names[after[c]]}" for c in special if after[c] < len(text)]
        others = characters("".join(special), negated=True)
        return any_of(['""', f"{others} {names[0]}", *options], group=False)

    def text(self, root: str) -> str:
        """Return the whole grammar; `root` is the body of its first rule."""
        return f"root ::= {root}\n{self.lines()}"

    def lines(self) -> str:
        """Return the rules alone, one per line."""
        return "".join(f"{name} ::= {body}\n" for name, body in self._bodies.items())


def literal(text: str) -> str:
    """Return an expression for exactly this text."""
    return '"' + _SPECIAL.sub(lambda found: _escaped(found[0], '"\\'), text) + '"'


def characters(of: str, *, negated: bool = False) -> str:
    """Return an expression for one of these characters; negated: for one of all others."""
    inner = "".join(_escaped(c, "[]-^\\") for c in of)
    return f"[^{inner}]" if negated else f"[{inner}]"


def sequence(*parts: str) -> str:
    """Return an expression for the parts one after the other; empty ones are left out."""
    return " ".join(filter(None, parts))


def any_of(options: Iterable[str], *, group: bool = True) -> str:
    """Return an expression for one of the options. group: in parentheses if there are several."""
    different = list(dict.fromkeys(option or '""' for option in options))
    if len(different) == 1:
        return different[0]
    joined = " | ".join(different)
    return f"({joined})" if group else joined


def _times(item: str, least: int, most: int) -> str:
    if most <= 0:
        return ""
    if least == most:
        return item if most == 1 else f"{item}{{{most}}}"
    return f"{item}?" if (least, most) == (0, 1) else f"{item}{{{least},{most}}}"


def _escaped(character: str, special: str) -> str:
    if character == "^":  # llama.cpp has no escape for it
        return "\\x5E"
    if character in special:
        return "\\" + character
    if _BARE.match(character):
        return character
    code = ord(character)
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}"


def _matched(text: str, read: str) -> int:
    """Return how many first characters of `text` are the last ones of `read`."""
    return max(n for n in range(len(text) + 1) if read.endswith(text[:n]))
