"""The requests that wait for a slot, and in which order they should get one.

Pure. Knows owners and their shares. Refuses to know slots and the KV cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from dure.generate.request import Owner, Request
from dure.generate.scheduler.running import RunningRequest
from dure.generate.scheduler.shares import Shares, n_by_group, n_by_owner

__all__ = ["WaitingQueue"]


class WaitingQueue:
    """Requests that wait, in the order they came; those that were paused come first.

    Some of these wait for their next tokens to be chosen, before they may have a slot again.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._requests: list[Request] = []
        self._choosing: dict[str, RunningRequest] = {}  # by their ids
        self.n_admitted = 0

    def __len__(self) -> int:
        return len(self._requests) + len(self._choosing)

    def __iter__(self) -> Iterator[Request]:
        yield from self._requests
        yield from (running.request for running in self._choosing.values())

    @property
    def owners(self) -> Iterator[Owner]:
        """The owners of the requests."""
        return (request.owner for request in self)

    def add(self, request: Request) -> None:
        """Append a request."""
        self._requests.append(request)

    def put_back(self, running: RunningRequest) -> None:
        """Let a request that was paused wait before all others of its owner; but first for its tokens."""
        if running.is_choosing:
            self._choosing[running.request.id] = running
            return
        answered = running.tokens[len(running.request.prompt) :]
        self._requests.insert(0, msgspec.structs.replace(running.request, answered=answered))

    def cancel(self, request_id: str) -> RunningRequest | Request | None:
        """Remove and return a request; None if it does not wait."""
        if (running := self._choosing.pop(request_id, None)) is not None:
            return running
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
