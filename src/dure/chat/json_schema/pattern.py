"""Converts a regular expression to grammar rules for the JSON strings that match it.

Knows the regular part of ECMAScript's syntax, and how JSON writes characters.
Refuses to know schemas. What no grammar can express (look-around, back references) is an error.
"""

from __future__ import annotations

import re

from dure.chat.json_schema.rules import Rules, any_of, characters, literal, sequence
from dure.errors import UsageError

__all__ = ["CHARACTER", "pattern_rule"]

# Any character of a JSON string, but no half of a surrogate pair.
_CODE = "[0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}"
CHARACTER = r'[^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" (' + _CODE + "))"
_LAST, _SURROGATES = 0x10FFFF, (0xD800, 0xDFFF)
_ESCAPED = {
    '"': '\\"',
    "\\": "\\\\",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\b": "\\b",
    "\f": "\\f",
}
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
_DEPTH_LIMIT = 50

Ranges = list[tuple[int, int]]
_CLASSES: dict[str, Ranges] = {
    "d": [(0x30, 0x39)],
    "w": [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
    "s": [(0x09, 0x0D), (0x20, 0x20)],
}


def pattern_rule(rules: Rules, pattern: str, hint: str) -> str:
    """Return the name of a rule for strings, without quotes, in which the pattern matches somewhere.

    Raises UsageError naming the part that no grammar can express.
    """
    body = _Reader(rules, pattern, hint).read()
    return rules.add(hint, body)


class _Reader:
    def __init__(self, rules: Rules, pattern: str, hint: str) -> None:
        self._rules, self._pattern, self._hint = rules, pattern, hint
        self._at = self._depth = 0

    def read(self) -> str:
        try:
            re.compile(self._pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise UsageError(f"{self._hint}: {self._pattern!r} is no pattern: {error}") from error
        options = [self._anchored()]
        while self._take("|"):
            options.append(self._anchored())
        if self._at < len(self._pattern):
            raise self._unsupported(self._pattern[self._at])
        return any_of(options, group=False)

    def _anchored(self) -> str:
        anything = f"{self._rules.add('character', CHARACTER)}*"
        before = "" if self._take("^") else anything
        body = self._terms()
        after = "" if self._take("$") else anything
        return sequence(before, body, after)

    def _options(self) -> str:
        options = [self._terms()]
        while self._take("|"):
            options.append(self._terms())
        return any_of(options)

    def _terms(self) -> str:
        terms = []
        while self._at < len(self._pattern) and self._peek() not in "|)$":
            terms.append(self._repeated(self._atom()))
        return sequence(*terms)

    def _repeated(self, atom: str) -> str:
        least, most = self._quantifier()
        if (least, most) == (1, 1):
            return atom
        if not atom:
            return ""
        item = self._rules.add(f"{self._hint}-part", atom)
        return self._rules.repeat(self._hint, item, least, most)

    def _quantifier(self) -> tuple[int, int | None]:
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        counted = re.compile(r"\{(\d+)(,?)(\d*)\}").match(self._pattern, self._at)
        if counted is not None:
            self._at = counted.end()
            least = int(counted[1])
            most: int | None = least
            if counted[2]:
                most = int(counted[3]) if counted[3] else None
        elif self._peek() in simple:
            least, most = simple[self._pattern[self._at]]
            self._at += 1
        else:
            return 1, 1
        self._take("?")  # the lazy form matches the same strings
        if self._peek() == "+":
            raise self._unsupported("+")
        return least, most

    def _atom(self) -> str:
        character = self._pattern[self._at]
        self._at += 1
        if character == "(":
            return self._group()
        if character == "[":
            return self._written(self._class())
        if character == ".":
            newlines: Ranges = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
            return self._written(_complement(newlines))
        if character == "\\":
            ranges = self._escape(inside=False)
            return self._written(ranges)
        if character in "^*+?":
            raise self._unsupported(character)
        return literal(_in_json(character))

    def _group(self) -> str:
        self._depth += 1
        if self._depth > _DEPTH_LIMIT:
            raise self._unsupported(f"more than {_DEPTH_LIMIT} nested groups")
        if self._take("?"):
            named = re.compile(r":|P?<[A-Za-z_]\w*>").match(self._pattern, self._at)
            if named is None:
                raise self._unsupported("(?" + self._peek())
            self._at = named.end()
        options = self._options()
        if not self._take(")"):
            raise self._unsupported(self._peek() or "(")
        self._depth -= 1
        return options

    def _class(self) -> Ranges:
        negated, ranges, shorthand = self._take("^"), Ranges(), False
        first = True
        while first or self._peek() != "]":
            first = False
            low, is_class = self._member()
            shorthand = shorthand or is_class
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high, other = self._member()
                if is_class or other:
                    raise self._unsupported("a range of classes")
                low = [(low[0][0], high[0][0])]
            ranges += low
        self._at += 1
        if not negated:
            return ranges
        result = _complement(ranges)
        return _printable(result) if shorthand else result

    def _member(self) -> tuple[Ranges, bool]:
        character = self._pattern[self._at]
        self._at += 1
        if character != "\\":
            return [(ord(character), ord(character))], False
        ranges = self._escape(inside=True)
        return ranges, len(ranges) > 1 or ranges[0][0] != ranges[0][1]

    def _escape(self, *, inside: bool) -> Ranges:
        character = self._pattern[self._at]
        self._at += 1
        if character in _CLASSES:
            return list(_CLASSES[character])
        if character.lower() in _CLASSES:
            return _printable(_complement(_CLASSES[character.lower()]))
        code = self._code(character)
        if code is None:
            if character == "b" and inside:
                code = 8
            elif character.isalnum():
                raise self._unsupported("\\" + character)
            else:
                code = ord(character)
        return [(code, code)]

    def _code(self, character: str) -> int | None:
        if character in _CONTROLS:
            return ord(_CONTROLS[character])
        size = {"x": 2, "u": 4}.get(character)
        if size is None:
            return None
        code = int(self._pattern[self._at : self._at + size], 16)
        self._at += size
        return code

    def _written(self, ranges: Ranges) -> str:
        plain, escaped = _split(ranges)
        options = [f"[{''.join(_range(a, b) for a, b in plain)}]"] if plain else []
        options += [literal(_in_json(chr(code))) for code in escaped]
        if not options:
            raise self._unsupported("an empty class")
        return any_of(options)

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self, character: str) -> bool:
        taken = self._peek() == character
        self._at += taken
        return taken

    def _unsupported(self, what: str) -> UsageError:
        return UsageError(f"{self._hint}: {what!r} in {self._pattern!r} is not supported")


def _complement(ranges: Ranges) -> Ranges:
    result, start = [], 0
    for low, high in sorted([*ranges, _SURROGATES]):
        if start < low:
            result.append((start, low - 1))
        start = max(start, high + 1)
    if start <= _LAST:
        result.append((start, _LAST))
    return result


def _printable(ranges: Ranges) -> Ranges:
    """Return the ASCII part: beyond it, dialects disagree on letters and spaces."""
    return [(max(a, 0x20), min(b, 0x7E)) for a, b in ranges if a <= 0x7E and b >= 0x20]


def _split(ranges: Ranges) -> tuple[Ranges, list[int]]:
    """Return the characters that JSON writes as they are, and those it must escape."""
    special = [*range(0x20), 0x22, 0x5C]
    escaped = [code for code in special if any(a <= code <= b for a, b in ranges)]
    outside = _complement(ranges)
    plain = _complement([*outside, (0, 0x1F), (0x22, 0x22), (0x5C, 0x5C)])
    return plain, escaped


def _range(low: int, high: int) -> str:
    first, last = characters(chr(low))[1:-1], characters(chr(high))[1:-1]
    return first if low == high else f"{first}-{last}"


def _in_json(character: str) -> str:
    known = _ESCAPED.get(character)
    if known is not None:
        return known
    return f"\\u{ord(character):04x}" if ord(character) < 0x20 else character
