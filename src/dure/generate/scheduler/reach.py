"""How far the sequences of a model can be cut back. Pure.

Knows what every kind of model still has of a sequence after a step, and after a move to another place.
Refuses to know slots and what is in them. Lengths count tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Reach"]


@dataclass(frozen=True)
class Reach:
    """Tells the shortest length that a sequence can be cut back to.

    can_forget: False if the model has a running state, which cannot go back at all.
    n_window: some layers keep only that many positions; 0: all layers keep all. Of a longer sequence
    llama.cpp keeps at least what its last step's tokens see.
    """

    can_forget: bool = True
    n_window: int = 0

    @property
    def is_unlimited(self) -> bool:
        """Tell whether every sequence can be cut back anywhere."""
        return self.can_forget and not self.n_window

    def after_step(self, lowest: int, start: int, stop: int) -> int:
        """Return the shortest length after a step has computed the tokens from start to stop.

        lowest: the shortest length before it.
        """
        if not self.can_forget:
            return stop
        return start if self.n_window and stop > self.n_window else lowest

    def after_move(self, n: int) -> int:
        """Return the shortest length after n tokens were copied, swapped, loaded or returned to."""
        is_whole = self.can_forget and (not self.n_window or n < self.n_window)
        return 0 if is_whole else n
