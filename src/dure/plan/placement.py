"""Which machines take part, and how much of a model each gets. Pure arithmetic.

The slowest machine sets the pace of a token, so shares follow speed, as far as memory allows; and each
machine more makes sums dearer, so one that saves less than it costs is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dure.errors import ResourceError

__all__ = ["Candidate", "Placement", "Work", "at_work", "place", "shares_of", "token_s"]

WORTH_CUTTING_AGAIN = 0.1  # of the time of a token: other shares mean sending shards anew


@dataclass(frozen=True)
class Candidate:
    """A machine. bytes_per_s: of weights that it decodes with. free_bytes: for weights and KV cache.

    round_trip_s, link_bytes_per_s: between it and the root; 0 and infinity for the root itself.
    """

    name: str
    bytes_per_s: float
    free_bytes: float
    round_trip_s: float = 0.0
    link_bytes_per_s: float = float("inf")


@dataclass(frozen=True)
class Work:
    """A model. weights_bytes: read for each token. kv_bytes: of the whole KV cache.

    n_sums: over all ranks, in a token; sum_bytes: that each rank sends to each other one for a sum.
    """

    weights_bytes: float
    kv_bytes: float
    n_sums: int
    sum_bytes: float


@dataclass(frozen=True)
class Placement:
    """Who gets which part (they add up to 1), the predicted time of a token, and who is left out, why."""

    shares: Mapping[str, float]
    token_s: float
    left_out: Mapping[str, str]


def place(machines: Sequence[Candidate], work: Work) -> Placement:
    """The best placement that begins with the first machine, the root, which always takes part.

    Raises ResourceError where all together have too little memory.
    """
    if _capacity(machines, work) < 1:
        free = sum(max(0.0, machine.free_bytes) for machine in machines)
        raise ResourceError(
            f"the model takes {(work.weights_bytes + work.kv_bytes) / 1e9:.1f} GB, and all machines "
            f"together have {free / 1e9:.1f} GB free: use a smaller --ctx or model, or add a machine"
        )
    chosen = _improved(_fastest_first(machines, work), machines, work)
    best = token_s(chosen, work)
    left_out = {
        machine.name: f"a token would take {token_s([*chosen, machine], work) * 1e3:.1f} ms with it, "
        f"and takes {best * 1e3:.1f} ms without"
        for machine in machines
        if machine not in chosen
    }
    return Placement(shares_of(chosen, work), best, left_out)


def _fastest_first(machines: Sequence[Candidate], work: Work) -> list[Candidate]:
    """The root with as many of the fastest others as is best."""
    root, *others = machines
    others.sort(key=lambda machine: -machine.bytes_per_s)
    return min(
        ([root, *others[:n]] for n in range(len(others) + 1)), key=lambda some: token_s(some, work)
    )


def _improved(
    chosen: list[Candidate], machines: Sequence[Candidate], work: Work
) -> list[Candidate]:
    """The same with one machine more or less, again and again, as long as that is faster."""
    while True:
        ways = [[m for m in chosen if m is not one] for one in chosen[1:]]
        ways += [[*chosen, one] for one in machines if one not in chosen]
        better = min(ways, key=lambda some: token_s(some, work), default=chosen)
        if token_s(better, work) >= token_s(chosen, work):
            return [machine for machine in machines if machine in chosen]
        chosen = better


def token_s(machines: Sequence[Candidate], work: Work) -> float:
    """The predicted time of a token on these machines; infinite where the model does not fit."""
    if _capacity(machines, work) < 1:
        return float("inf")
    shares = shares_of(machines, work)
    compute = max(shares[m.name] * work.weights_bytes / m.bytes_per_s for m in machines)
    return compute + work.n_sums * _sum_s(machines, work)


def shares_of(machines: Sequence[Candidate], work: Work) -> dict[str, float]:
    """Shares by speed, none larger than its machine's memory; the model must fit."""
    full: dict[str, float] = {}
    while True:
        others = [m for m in machines if m.name not in full]
        left = 1 - sum(full.values())
        speed = sum(m.bytes_per_s for m in others)
        shares = {m.name: left * m.bytes_per_s / speed for m in others}
        over = {m.name: _most(m, work) for m in others if shares[m.name] > _most(m, work)}
        if not over or len(over) == len(others):
            both = {**full, **shares}
            return {m.name: both[m.name] for m in machines}
        full |= over


def at_work(
    speeds: Sequence[float], held_bytes: Sequence[float], seconds: Sequence[float]
) -> list[float] | None:
    """Speeds (bytes/s) as they show in a running model; None where shares by them would gain little.

    speeds: as they were thought to be, and the shares were made from; held_bytes: of each machine's
    weights; seconds: that each computes of a token. The mean stays as it was: a mixture of experts reads
    only a part of what it holds.
    """
    shown = [held / took for held, took in zip(held_bytes, seconds, strict=True)]
    best_s = sum(held_bytes) / sum(shown)
    if max(seconds) < best_s * (1 + WORTH_CUTTING_AGAIN):
        return None
    scale = sum(speeds) / sum(shown)
    return [speed * scale for speed in shown]


def _most(machine: Candidate, work: Work) -> float:
    """The largest share that a machine's memory holds."""
    return max(0.0, machine.free_bytes) / (work.weights_bytes + work.kv_bytes)


def _capacity(machines: Sequence[Candidate], work: Work) -> float:
    return sum(_most(machine, work) for machine in machines)


def _sum_s(machines: Sequence[Candidate], work: Work) -> float:
    """A sum: everyone sends to everyone at once, over the slowest link."""
    n = len(machines)
    if n == 1:
        return 0.0
    slowest = min(machine.link_bytes_per_s for machine in machines)
    round_trip = max(machine.round_trip_s for machine in machines)
    return round_trip / 2 + (n - 1) * work.sum_bytes / slowest
