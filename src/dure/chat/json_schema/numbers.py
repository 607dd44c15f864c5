"""Writes grammar expressions for the numbers within bounds, digit by digit.

Knows decimal digits. Refuses to know schemas.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from dure.chat.json_schema.rules import any_of, literal, sequence

__all__ = ["Bounds", "integers", "multiples", "numbers"]

MAX_DIGITS = 18  # of an integer without bounds, so that it fits 64 bits
EXACT_DIGITS = 15  # that a double can distinguish
ANY_INTEGER = f'"-"? ("0" | [1-9] [0-9]{{0,{MAX_DIGITS - 1}}})'
ANY_NUMBER = ANY_INTEGER + ' ("." [0-9]{1,17})? ([eE] [-+]? [0-9]{1,2})?'
_ANY_DIGITS = "[0-9]{0,%d}"


@dataclass(frozen=True)
class Bounds:
    """The bounds of a number; open: the bound itself is excluded."""

    low: Decimal | None = None
    high: Decimal | None = None
    low_open: bool = False
    high_open: bool = False

    @property
    def free(self) -> bool:
        """Return whether there are no bounds."""
        return self.low is None and self.high is None

    def whole(self) -> tuple[int | None, int | None]:
        """Return the least and the greatest integer within the bounds."""
        low = high = None
        if self.low is not None:
            low = -int((-self.low).to_integral_value("ROUND_FLOOR"))
            low += self.low_open and low == self.low
        if self.high is not None:
            high = int(self.high.to_integral_value("ROUND_FLOOR"))
            high -= self.high_open and high == self.high
        return low, high


def integers(bounds: Bounds) -> str:
    """Return an expression for the integers within the bounds, "" if there are none."""
    if bounds.free:
        return ANY_INTEGER
    low, high = bounds.whole()
    far = max(10**MAX_DIGITS, *(10 * abs(n) for n in (low, high) if n is not None)) - 1
    low, high = -far if low is None else low, far if high is None else high
    options = []
    if low < 0:
        options += [f'"-" {o}' for o in _naturals(max(1, -high), -low)]
    if high >= 0:
        options += _naturals(max(0, low), high)
    return any_of(options) if options else ""


def multiples(bounds: Bounds, of: int, limit: int = 500) -> list[int] | None:
    """Return the multiples of a number within the bounds, None if there are more than `limit`."""
    low, high = bounds.whole()
    if low is None or high is None or (high - low) // of > limit:
        return None
    return list(range(-(-low // of) * of, high + 1, of))


def _naturals(low: int, high: int) -> list[str]:
    """Return options for low ≤ n ≤ high, without leading zeros."""
    options = []
    for n in range(len(str(low)), len(str(high)) + 1):
        a, b = max(low, 10 ** (n - 1) if n > 1 else 0), min(high, 10**n - 1)
        if a <= b:
            options.append(_same_length(str(a), str(b)))
    return options


def _same_length(low: str, high: str) -> str:
    shared = 0
    while shared < len(low) and low[shared] == high[shared]:
        shared += 1
    head, low, high = low[:shared], low[shared:], high[shared:]
    if not low:
        return literal(head)
    options = _split(low, high)
    return sequence(literal(head) if head else "", any_of(options))


def _split(low: str, high: str) -> list[str]:
    """Return options for numbers of one length whose first digits differ."""
    rest = len(low) - 1
    a, b = int(low[0]), int(high[0])
    options = []
    if set(low[1:]) - {"0"}:
        options.append(sequence(literal(low[0]), _at_least(low[1:])))
        a += 1
    if set(high[1:]) - {"9"}:
        b -= 1
    if a <= b:
        options.append(sequence(_digit(a, b), f"[0-9]{{{rest}}}" if rest else ""))
    if b < int(high[0]):
        options.append(sequence(literal(high[0]), _at_most(high[1:])))
    return options


def _at_least(digits: str) -> str:
    return _same_length(digits, "9" * len(digits)) if digits else ""


def _at_most(digits: str) -> str:
    return _same_length("0" * len(digits), digits) if digits else ""


def _digit(a: int, b: int) -> str:
    return literal(str(a)) if a == b else f"[{a}-{b}]"


# ---------------------------------------------------------------- with a fraction


def numbers(bounds: Bounds) -> str:
    """Return an expression for the numbers within the bounds, "" if there are none.

    Numbers have an exponent only if there are no bounds.
    """
    if bounds.free:
        return ANY_NUMBER
    far = Decimal(10) ** 9
    known = [abs(b) for b in (bounds.low, bounds.high) if b is not None]
    far = max(far, *(b * 10 for b in known))
    low = -far if bounds.low is None else bounds.low
    high = far if bounds.high is None else bounds.high
    options = []
    if low < 0:
        zero = high >= 0
        a, a_open = (Decimal(0), True) if zero else (-high, bounds.high_open)
        options += [f'"-" {o}' for o in _positives(a, -low, a_open, bounds.low_open)]
    if high >= 0:
        inside = low >= 0
        a, a_open = (low, bounds.low_open) if inside else (Decimal(0), False)
        options += _positives(a, high, a_open, bounds.high_open)
    return any_of(options) if options else ""


def _positives(low: Decimal, high: Decimal, low_open: bool, high_open: bool) -> list[str]:
    """Return options for 0 ≤ low ≤ x ≤ high."""
    if low > high or (low == high and (low_open or high_open)):
        return []
    a, b = _parts(low), _parts(high)
    room = max(len(a[1]) + 1, len(b[1]) + 1, EXACT_DIGITS - len(b[0]), 1)
    fraction = _Fraction(room)
    if a[0] == b[0]:
        return [
            sequence(literal(a[0]), part)
            for part in fraction.between(a[1], b[1], low_open, high_open)
        ]
    options = [sequence(literal(a[0]), part) for part in fraction.above(a[1], low_open)]
    if int(a[0]) + 1 <= int(b[0]) - 1:
        middle = any_of(_naturals(int(a[0]) + 1, int(b[0]) - 1))
        options.append(sequence(middle, f'("." [0-9]{{1,{room}}})?'))
    options += [sequence(literal(b[0]), part) for part in fraction.below(b[1], high_open)]
    return options


def _parts(number: Decimal) -> tuple[str, str]:
    """Return the digits before and after the point, without needless zeros."""
    whole, _, fraction = f"{number:f}".partition(".")
    return whole.lstrip("0") or "0", fraction.rstrip("0")


class _Fraction:
    """Options for what follows the digits of an integer: nothing, or a point and digits."""

    def __init__(self, room: int) -> None:
        self._room = room

    def above(self, digits: str, is_open: bool) -> list[str]:
        if not digits and not is_open:
            return [f'("." [0-9]{{1,{self._room}}})?']
        return [sequence('"."', self._above(digits, is_open, self._room))]

    def below(self, digits: str, is_open: bool) -> list[str]:
        if not digits:
            return [] if is_open else [f'("." "0"{{1,{self._room}}})?']
        return [f'("." {self._below(digits, is_open, self._room)})?']

    def between(self, low: str, high: str, low_open: bool, high_open: bool) -> list[str]:
        inner = self._between(low, high, low_open, high_open, self._room)
        options = [sequence('"."', inner)] if inner else []
        if not low and not low_open and (high or not high_open):
            options.append('("." "0")?')
        return options

    def _above(self, digits: str, is_open: bool, room: int) -> str:
        if not digits:
            if not is_open:
                return _ANY_DIGITS % room
            zeros = f'"0"{{0,{room - 1}}} ' if room > 1 else ""
            return f"{zeros}[1-9] {_ANY_DIGITS % max(room - 1, 0)}"
        d, rest = int(digits[0]), digits[1:]
        options = [sequence(literal(str(d)), self._above(rest, is_open, room - 1))]
        if d < 9:
            options.append(sequence(_digit(d + 1, 9), _ANY_DIGITS % (room - 1)))
        return any_of(options)

    def _below(self, digits: str, is_open: bool, room: int) -> str:
        d, rest = int(digits[0]), digits[1:]
        options = []
        if d > 0:
            options.append(sequence(_digit(0, d - 1), _ANY_DIGITS % (room - 1)))
        if rest:
            options.append(sequence(literal(str(d)), f"({self._below(rest, is_open, room - 1)})?"))
        elif not is_open:
            options.append(sequence(literal(str(d)), f'"0"{{0,{room - 1}}}'))
        return any_of(options)

    def _between(self, low: str, high: str, low_open: bool, high_open: bool, room: int) -> str:
        """Return an expression for one digit or more, "" if none fit."""
        if not high:
            return "" if low_open or high_open else f'"0"{{1,{room}}}'
        a, b = int(low[:1] or 0), int(high[0])
        rest_a, rest_b = low[1:], high[1:]
        if a == b:
            inner = self._between(rest_a, rest_b, low_open, high_open, room - 1)
            stops = not rest_a and not low_open and (rest_b or not high_open)
            inner = f"({inner})?" if inner and stops else inner
            return sequence(literal(str(a)), inner) if inner or stops else ""
        options = [sequence(literal(str(a)), self._above(rest_a, low_open, room - 1))]
        if a + 1 <= b - 1:
            options.append(sequence(_digit(a + 1, b - 1), _ANY_DIGITS % (room - 1)))
        if rest_b:
            options.append(
                sequence(literal(str(b)), f"({self._below(rest_b, high_open, room - 1)})?")
            )
        elif not high_open:
            options.append(sequence(literal(str(b)), f'"0"{{0,{room - 1}}}'))
        return any_of(options)
