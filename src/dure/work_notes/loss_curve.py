"""The losses of a tuning, thinned out until a note can hold them: a run has any number of steps."""

from __future__ import annotations

import msgspec

__all__ = ["GrowingCurve", "LossCurve"]

_MOST_POINTS = 64
_DIGITS = 4


class LossCurve(msgspec.Struct, frozen=True):
    """Steps, which count from 1, and their losses in nats a token.

    learned: each point the mean of as many neighbouring steps, at their last one. held_out: of evaluations.
    """

    learned: tuple[tuple[int, float], ...] = ()
    held_out: tuple[tuple[int, float], ...] = ()


class GrowingCurve:
    """A curve to which a run adds step by step; the more steps, the more of them share a point."""

    def __init__(self) -> None:
        self._learned, self._held_out = _Points(), _Points()

    def learn(self, step: int, loss: float) -> None:
        """Add the loss of a step."""
        self._learned.add(step, loss)

    def evaluate(self, step: int, loss: float) -> None:
        """Add the loss on held-out examples after a step."""
        self._held_out.add(step, loss)

    @property
    def curve(self) -> LossCurve:
        """The curve as it is now."""
        return LossCurve(self._learned.means(), self._held_out.means())


class _Points:
    """Means of `_size` values each; the last may have fewer."""

    def __init__(self) -> None:
        self._size = 1
        self._bins: list[tuple[int, float, int]] = []  # the last step, the sum, and of how many

    def add(self, step: int, value: float) -> None:
        if self._bins and self._bins[-1][2] < self._size:
            _, total, n = self._bins.pop()
            self._bins.append((step, total + value, n + 1))
            return
        if len(self._bins) == _MOST_POINTS:
            self._size *= 2
            pairs = zip(self._bins[::2], self._bins[1::2], strict=True)
            self._bins = [(b[0], a[1] + b[1], a[2] + b[2]) for a, b in pairs]
        self._bins.append((step, value, 1))

    def means(self) -> tuple[tuple[int, float], ...]:
        return tuple((step, float(f"{total / n:.{_DIGITS}g}")) for step, total, n in self._bins)
