"""Shares of owners: how much each has had, and whose answer pauses for whose request.

Weighted fair queueing: an owner's clock runs by the tokens that are computed for it, divided by its weight,
and the owner whose clock is behind comes first. An owner that comes back begins at the clock of the others:
what it did not use is not saved up.
Pure. Refuses to know slots and the KV cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence

from dure.generate.request import Owner, OwnerStats, Request
from dure.generate.scheduler.running import RunningRequest

__all__ = ["Shares", "n_by_group", "n_by_owner", "to_pause"]

SLICE = 128  # tokens, for a weight of 1, that an owner gets ahead before an answer of it pauses for others
MOST_OWNERS = 10_000  # of which a clock is kept


class Shares:
    """The clock of every owner, its tokens in all, and how often answers of it were paused.

    owners: by name, as they came last.
    """

    def __init__(self) -> None:
        self._clocks: dict[str, float] = {}
        self.owners: dict[str, Owner] = {}
        self.prompt_tokens: Counter[str] = Counter()
        self.generated_tokens: Counter[str] = Counter()
        self.pauses: Counter[str] = Counter()

    def clock(self, owner: Owner) -> float:
        """Return how much an owner has had: tokens for a weight of 1."""
        return self._clocks.get(owner.name, 0.0)

    def arrive(self, owner: Owner, present: Iterable[Owner]) -> None:
        """Begin or go on with an owner. present: those with requests, before this one of it."""
        names = {other.name for other in present}
        self.owners[owner.name] = owner
        if owner.name in names:
            return
        if not names or len(self._clocks) > MOST_OWNERS:
            self._clocks = {name: self._clocks.get(name, 0.0) for name in names}
        start = min((self._clocks.get(name, 0.0) for name in names), default=0.0)
        self._clocks[owner.name] = max(self.clock(owner), start)

    def charge(self, owner: Owner, n_tokens: int) -> None:
        """Let an owner's clock go on by the tokens of a step, drafts included."""
        self._clocks[owner.name] = self.clock(owner) + n_tokens / owner.weight

    def stats(
        self, running: Iterable[Request], waiting: Iterable[Request]
    ) -> tuple[OwnerStats, ...]:
        """Return the figures of every owner that has had tokens, or requests."""
        n_running, n_waiting = n_by_owner(running), n_by_owner(waiting)
        return tuple(
            OwnerStats(
                name,
                n_running[name],
                n_waiting[name],
                self.prompt_tokens[name],
                self.generated_tokens[name],
                self.pauses[name],
                self.owners[name].weight,
                self.owners[name].priority,
            )
            for name in sorted({*n_running, *n_waiting, *self.prompt_tokens})
        )


def n_by_owner(requests: Iterable[Request]) -> Counter[str]:
    """Count the requests of each owner."""
    return Counter(request.owner.name for request in requests)


def n_by_group(requests: Iterable[Request]) -> Counter[tuple[str, str]]:
    """Count the requests of each group of an owner; one without a group counts for no other."""
    return Counter((request.owner.name, request.group) for request in requests if request.group)


def to_pause(
    claimant: Request,
    running: Sequence[RunningRequest],
    shares: Shares,
    late: Container[str] = (),
) -> RunningRequest | None:
    """Return the answer that pauses, so that a waiting request gets its slot; None if none should.

    late: ids of requests that do not use their slots, as their tokens take long to choose.
    In this order: one of these; one of a lower priority; one of an owner that would still run as much for
    its weight as the claimant's owner then does; one of a group, likewise; one of an owner that is far
    ahead, if the claimant's has none running. So no two requests pause each other in turn.
    """
    if (idle := _latest(r for r in running if r.is_choosing and r.request.id in late)) is not None:
        return idle
    can = [r for r in running if r.in_steps]
    lower = [r for r in can if r.request.owner.priority < claimant.owner.priority]
    if lower:
        least = min(r.request.owner.priority for r in lower)
        return _latest(r for r in lower if r.request.owner.priority == least)
    equal = [r for r in can if r.request.owner.priority == claimant.owner.priority]
    n_owner = n_by_owner(r.request for r in running)
    n_group = n_by_group(r.request for r in running)
    return (
        _of_busiest_owner(claimant, equal, n_owner)
        or _of_largest_group(claimant, equal, n_group)
        or _of_owner_ahead(claimant, equal, n_owner, shares)
    )


def _of_busiest_owner(
    claimant: Request, running: Sequence[RunningRequest], n: Counter[str]
) -> RunningRequest | None:
    def runs_less_one(r: RunningRequest) -> float:
        return (n[r.request.owner.name] - 1) / r.request.owner.weight

    least = (n[claimant.owner.name] + 1) / claimant.owner.weight
    others = [r for r in running if r.request.owner.name != claimant.owner.name]
    busiest = max(map(runs_less_one, others), default=0.0)
    return _latest(r for r in others if runs_less_one(r) == busiest) if busiest >= least else None


def _of_largest_group(
    claimant: Request, running: Sequence[RunningRequest], n: Counter[tuple[str, str]]
) -> RunningRequest | None:
    name = claimant.owner.name
    own = [r for r in running if r.request.owner.name == name and r.request.group]
    largest = max((n[name, r.request.group] for r in own), default=0)
    if largest - 1 < n[name, claimant.group] + 1:
        return None
    return _latest(r for r in own if n[name, r.request.group] == largest)


def _of_owner_ahead(
    claimant: Request, running: Sequence[RunningRequest], n: Counter[str], shares: Shares
) -> RunningRequest | None:
    if n[claimant.owner.name]:
        return None
    start = shares.clock(claimant.owner) + SLICE
    ahead = [r for r in running if shares.clock(r.request.owner) >= start and _may_pause(r)]
    return max(ahead, key=lambda r: shares.clock(r.request.owner), default=None)


def _may_pause(running: RunningRequest) -> bool:
    """Tell whether a request has computed enough since it got its slot to be worth the moving."""
    return running.n_computed >= max(SLICE, running.n_cached // 4)


def _latest(running: Iterable[RunningRequest]) -> RunningRequest | None:
    return max(running, key=lambda r: r.turn, default=None)
