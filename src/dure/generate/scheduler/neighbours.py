"""Which running sequences change places, so that they become neighbours in the KV cache.

llama.cpp computes sequences in one pass over the weights only if these are neighbours.
Pure functions of slot numbers and lengths. Refuse to know requests.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

__all__ = ["swaps_to_neighbours"]

SWAP_PAYBACK_STEPS = 8  # swaps that cost more than they save in this many steps are not made

SlotPair = tuple[int, int]


def swaps_to_neighbours(
    running: Sequence[int], n_slots: int, n_held: Callable[[int], int], pass_tokens: int
) -> list[SlotPair]:
    """Return the swaps that make running slots neighbours; none if they would not pay soon.

    running: the slots to bring together, ascending. n_held: counts the tokens in a slot. pass_tokens: how
    many tokens move to another slot in the time of one pass over the weights.
    """
    n_gaps = sum(b - a > 1 for a, b in itertools.pairwise(running))
    if not n_gaps or not pass_tokens:
        return []
    starts = range(n_slots - len(running) + 1)
    swaps = min((_swaps_into(running, start) for start in starts), key=lambda s: _cost(s, n_held))
    return swaps if _cost(swaps, n_held) <= SWAP_PAYBACK_STEPS * n_gaps * pass_tokens else []


def _swaps_into(running: Sequence[int], start: int) -> list[SlotPair]:
    """Return the swaps that move running slots into a range of their number that begins at `start`."""
    target = range(start, start + len(running))
    outside = [slot for slot in running if slot not in target]
    return list(zip(outside, sorted({*target} - {*running}), strict=True))


def _cost(swaps: Iterable[SlotPair], n_held: Callable[[int], int]) -> int:
    """Count the tokens that some swaps move."""
    return sum(n_held(slot) for pair in swaps for slot in pair)
