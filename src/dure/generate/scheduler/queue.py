"""The requests that wait for a slot, and which of them gets the next one: owners take turns.

Pure. Knows owners, and the order in which they were served. Refuses to know slots and the KV cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from dure.generate.request import Request

__all__ = ["WaitingQueue"]


class WaitingQueue:
    """Requests that wait, in the order they came."""

    def __init__(self) -> None:
        self._requests: list[Request] = []
        self._served: dict[str, int] = {}  # by owner: the admission at which it was last served
        self.n_admitted = 0

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """Append a request."""
        self._requests.append(request)

    def cancel(self, request_id: str) -> Request | None:
        """Remove and return a request; None if it does not wait."""
        for request in self._requests:
            if request.id == request_id:
                self._requests.remove(request)
                return request
        return None

    def pop(
        self, running: Iterable[Request], *, must_wait: Callable[[Request], bool]
    ) -> Request | None:
        """Remove and return the request to admit next; None if there is none or all must wait.

        It is the oldest one of the owner with the fewest running requests; of several such owners, of the
        one that was served longest ago.
        """
        n_running = Counter(request.owner for request in running)
        oldest: dict[str, Request] = {}
        for request in self._requests:
            if request.owner not in oldest and not must_wait(request):
                oldest[request.owner] = request
        if not oldest:
            return None
        owner = min(oldest, key=lambda owner: (n_running[owner], self._served.get(owner, 0)))
        self._requests.remove(oldest[owner])
        self.n_admitted += 1
        self._served[owner] = self.n_admitted
        return oldest[owner]
