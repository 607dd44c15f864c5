"""How a model is to run: one set of options for every command and for the engine's process.

Knows what makes sense by itself. Refuses to know models and machines.
"""

from __future__ import annotations

import msgspec

from dure.engine.compute.allreduce import Wire
from dure.errors import UsageError

__all__ = ["MOST_SEQUENCES", "RestartReason", "RunOptions", "parse_shares"]

MOST_RANKS = 1024
MOST_SEQUENCES = 128  # llama.cpp's own limit is 256
LARGEST_SHARE = 1e9


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for; None is "you choose".

    ctx: the longest prompt with its answer. n_sequences: answers at once, each with a context of its own.
    cluster: on the cluster's machines, one rank each; else all on this one. nodes: exactly these, or
    "all"; None: those that make it faster. interface: this machine's network device towards the nodes;
    None: the one that leads there. grace_s: how long a missing node is waited for, before the model
    starts without it; 0 fails at once. wire: how partial sums travel.
    lock_memory: weights are never swapped out. pin: each thread is held to a core of its own.
    """

    ranks: int | None = None
    shares: str | None = None
    threads: int | None = None
    ctx: int | None = None
    n_sequences: int = 1
    wire: Wire = Wire.Q8
    cluster: bool = False
    nodes: str | None = None
    interface: str | None = None
    grace_s: float = 0.0
    lock_memory: bool = False
    pin: bool = False


class RestartReason(msgspec.Struct, frozen=True):
    """Why the engine before this one ended, after its answers had stood still for silent_s."""

    reason: str
    silent_s: float = 0.0


def parse_shares(shares: str | None, ranks: int | None) -> list[float]:
    """Return one share for every rank. Raises UsageError if they are no numbers, or too many or few."""
    if ranks is not None and not 1 <= ranks <= MOST_RANKS:
        raise UsageError(f"--ranks {ranks}", f"give a number from 1 to {MOST_RANKS}")
    if shares is None:
        return [1.0] * (ranks or 1)
    try:
        numbers = [float(word) for word in shares.split(",")]
    except ValueError:
        raise UsageError(f"--shares {shares}", "give a number for every rank, as in 3,2") from None
    if not all(0 < number <= LARGEST_SHARE for number in numbers):
        raise UsageError(f"--shares {shares}", "every rank needs a number above 0, as in 3,2")
    if ranks is not None and ranks != len(numbers):
        raise UsageError(f"--shares {shares} names {len(numbers)} ranks, but --ranks says {ranks}")
    return numbers
