"""The requests that wait for a slot, and in which order they should get one.

Pure. Knows owners and their shares. Refuses to know slots and the KV cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dure.generate.request import Owner, Request
from dure.generate.scheduler.shares import Shares, n_by_group, n_by_owner

__all__ = ["WaitingQueue"]


class WaitingQueue:
    """Requests that wait, in the order they came; those that were paused come first."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._requests: list[Request] = []
        self.n_admitted = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    @property
    def owners(self) -> Iterator[Owner]:
        """The owners of the requests."""
        return (request.owner for request in self._requests)

    def add(self, request: Request) -> None:
        """Append a request."""
        self._requests.append(request)

    def put_back(self, request: Request) -> None:
        """Let a request that was paused wait before all others of its owner."""
        self._requests.insert(0, request)

    def cancel(self, request_id: str) -> Request | None:
        """Remove and return a request; None if it does not wait."""
        for request in self._requests:
            if request.id == request_id:
                self._requests.remove(request)
                return request
        return None

    def take(self, request: Request) -> None:
        """Remove a request: it gets a slot."""
        self._requests.remove(request)
        self.n_admitted += 1

    def first(
        self, running: Sequence[Request], *, must_wait: Callable[[Request], bool]
    ) -> list[Request]:
        """Return the request of every owner that should get a slot, the first owner's first.

        It is the oldest of those whose group has the fewest running. Owners come by their priority,
        by how many of their requests run for their weight, and by their clocks.
        """
        n_owner, n_group = n_by_owner(running), n_by_group(running)
        of_owner: dict[str, Request] = {}
        for request in self._requests:
            best = of_owner.get(request.owner.name)
            n = n_group[request.owner.name, request.group]
            is_better = best is None or n < n_group[best.owner.name, best.group]
            if is_better and not must_wait(request):
                of_owner[request.owner.name] = request

        def order(request: Request) -> tuple[float, float, float]:
            owner = request.owner
            return -owner.priority, n_owner[owner.name] / owner.weight, self._shares.clock(owner)

        return sorted(of_owner.values(), key=order)
