"""Decide which machines take part, and how much of a model each gets. Pure arithmetic.

The slowest machine sets the pace of a token, so shares follow speed, as far as memory allows; and each
further machine makes an all-reduce dearer, so one that saves less than it costs is left out.
Knows figures alone. Refuses to know how they were measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dure.errors import ResourceError, UsageError
from dure.plan.load import ModelLoad
from dure.sizes import compared

__all__ = [
    "Candidate",
    "Placement",
    "PlacementOptions",
    "fixed_shares",
    "measured_placement",
    "observed_speeds",
    "place",
    "shares_of",
    "token_s",
]

WORTH_CUTTING_AGAIN = 0.1  # of the time of a token: other shares mean sending shards again


@dataclass(frozen=True)
class Candidate:
    """A machine that may take part.

    alone_bytes_per_s: of weights that it decodes with if nothing else runs on it. free_bytes: for weights
    and KV cache. round_trip_s, link_bytes_per_s: between it and the root; 0 and infinity for the root
    itself. n_others: jobs that it computes for as well.
    """

    name: str
    alone_bytes_per_s: float
    free_bytes: float
    round_trip_s: float = 0.0
    link_bytes_per_s: float = float("inf")
    n_others: int = 0

    @property
    def bytes_per_s(self) -> float:
        """How fast it decodes while all its jobs do: memory is read for one after another."""
        return self.alone_bytes_per_s / (1 + self.n_others)


@dataclass(frozen=True)
class Placement:
    """Which machines take part with which part of the model, the predicted time of a token, and which
    are left out, and why. shares: add up to 1, in the order of the machines.
    """

    shares: Mapping[str, float]
    token_s: float
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PlacementOptions:
    """What a user wants of a placement; None leaves it to the plan.

    n_ranks: --ranks. shares: --shares, the root's first. named: --nodes says which nodes take part.
    """

    n_ranks: int | None = None
    shares: tuple[float, ...] | None = None
    named: bool = False


def fixed_shares(
    names: Sequence[str], options: PlacementOptions, *, is_reduced: bool = False
) -> Mapping[str, float] | None:
    """Return the shares that follow without knowing any speed; None if speeds decide.

    names: of the machines that are there, the root's first. is_reduced: others are missing, so that
    neither n_ranks nor shares can be meant any more. Raises UsageError if either does not fit the machines.
    """
    if not is_reduced:
        if options.n_ranks not in {None, len(names)}:
            raise UsageError(
                f"--ranks {options.n_ranks}",
                f"the cluster has {len(names)} machines, with a rank on each",
            )
        if options.shares is not None:
            return _named_shares(names, options.shares)
    return {names[0]: 1.0} if len(names) == 1 else None


def _named_shares(names: Sequence[str], shares: Sequence[float]) -> dict[str, float]:
    if len(names) != len(shares):
        raise UsageError(
            f"--shares {','.join(f'{share:g}' for share in shares)} is for {len(shares)} machines, and "
            f"here are {len(names)}, in this order: {', '.join(names)}"
        )
    return dict(zip(names, shares, strict=True))


def measured_placement(
    machines: Sequence[Candidate], load: ModelLoad, options: PlacementOptions
) -> Placement:
    """Return the placement that speeds decide: over all machines if the user insists, else over the best.

    Raises ResourceError if all together have too little memory, and the user does not insist.
    """
    if options.named or options.n_ranks is not None:
        return Placement(shares_of(machines, load), token_s(machines, load))
    return place(machines, load)


def place(machines: Sequence[Candidate], load: ModelLoad) -> Placement:
    """Find the placement with the quickest token; the first machine, the root, always takes part.

    Raises ResourceError if all together have too little memory.
    """
    if _capacity(machines, load) < 1:
        free = sum(max(0.0, machine.free_bytes) for machine in machines)
        takes, has = compared(load.weights_bytes + load.kv_bytes, free)
        raise ResourceError(
            f"the model takes {takes}, and all machines together have {has} free",
            "use a smaller --ctx or model, or add a machine",
        )
    chosen = _improved(_fastest_first(machines, load), machines, load)
    best = token_s(chosen, load)
    left_out = {
        machine.name: f"a token would take {token_s([*chosen, machine], load) * 1e3:.1f} ms with it, "
        f"and takes {best * 1e3:.1f} ms without"
        for machine in machines
        if machine not in chosen
    }
    return Placement(shares_of(chosen, load), best, left_out)


def _fastest_first(machines: Sequence[Candidate], load: ModelLoad) -> list[Candidate]:
    """Return the root with as many of the fastest others as is quickest."""
    root, *others = machines
    others.sort(key=lambda machine: -machine.bytes_per_s)
    return min(
        ([root, *others[:n]] for n in range(len(others) + 1)), key=lambda some: token_s(some, load)
    )


def _improved(
    chosen: list[Candidate], machines: Sequence[Candidate], load: ModelLoad
) -> list[Candidate]:
    """Add or remove one machine at a time as long as that is faster."""
    while True:
        ways = [[m for m in chosen if m is not one] for one in chosen[1:]]
        ways += [[*chosen, one] for one in machines if one not in chosen]
        better = min(ways, key=lambda some: token_s(some, load), default=chosen)
        if token_s(better, load) >= token_s(chosen, load):
            return [machine for machine in machines if machine in chosen]
        chosen = better


def token_s(machines: Sequence[Candidate], load: ModelLoad) -> float:
    """Predict the time of a token on these machines; infinite if the model does not fit."""
    if _capacity(machines, load) < 1:
        return float("inf")
    shares = shares_of(machines, load)
    compute = max(shares[m.name] * load.weights_bytes / m.bytes_per_s for m in machines)
    return compute + load.n_allreduces * _allreduce_s(machines, load)


def shares_of(machines: Sequence[Candidate], load: ModelLoad) -> dict[str, float]:
    """Divide a model by speed, no share larger than its machine's memory; the model must fit."""
    full: dict[str, float] = {}
    while True:
        others = [m for m in machines if m.name not in full]
        left = 1 - sum(full.values())
        speed = sum(m.bytes_per_s for m in others)
        shares = {m.name: left * m.bytes_per_s / speed for m in others}
        over = {m.name: _most(m, load) for m in others if shares[m.name] > _most(m, load)}
        if not over or len(over) == len(others):
            both = {**full, **shares}
            return {m.name: both[m.name] for m in machines}
        full |= over


def observed_speeds(
    speeds: Sequence[float], held_bytes: Sequence[float], seconds: Sequence[float]
) -> list[float] | None:
    """Return machines' speeds (bytes/s) as a running model shows them; None if other shares gain little.

    speeds: as they were measured, and the shares were made from; held_bytes: of each machine's weights;
    seconds: that each computes of a token. The mean stays as it was: a mixture of experts reads only a
    part of what it holds.
    """
    observed = [held / took for held, took in zip(held_bytes, seconds, strict=True)]
    best_s = sum(held_bytes) / sum(observed)
    if max(seconds) < best_s * (1 + WORTH_CUTTING_AGAIN):
        return None
    scale = sum(speeds) / sum(observed)
    return [speed * scale for speed in observed]


def _most(machine: Candidate, load: ModelLoad) -> float:
    """Return the largest share that a machine's memory holds."""
    return max(0.0, machine.free_bytes) / (load.weights_bytes + load.kv_bytes)


def _capacity(machines: Sequence[Candidate], load: ModelLoad) -> float:
    return sum(_most(machine, load) for machine in machines)


def _allreduce_s(machines: Sequence[Candidate], load: ModelLoad) -> float:
    """Predict an all-reduce: all send to all at once, over the slowest link."""
    n = len(machines)
    if n == 1:
        return 0.0
    slowest = min(machine.link_bytes_per_s for machine in machines)
    round_trip = max(machine.round_trip_s for machine in machines)
    return round_trip / 2 + (n - 1) * load.allreduce_bytes / slowest
