"""Remembers which addresses an upstream has, by what it answers there: not all servers speak all dialects.

Knows that 404 has two meanings, and how to tell them apart. Refuses to know which upstream answers instead.
"""

from __future__ import annotations

import time

from dure.http.guards.asgi import Headers
from dure.route.client import Client, UpstreamError

__all__ = ["MAY_LACK", "Addresses"]

MAY_LACK = frozenset({404, 405, 501})  # statuses that an address may have which is not there
_BELIEVED_S = 3600.0  # a server may be replaced by a newer one that nobody sees restart
_OF_NOBODY = "-of-nobody"


class Addresses:
    """The addresses that one upstream is known to have, and to lack."""

    def __init__(self, believed_s: float = _BELIEVED_S) -> None:
        """believed_s: for how long an answer counts."""
        self._believed_s = believed_s
        self._has = dict[str, float]()  # when it said so
        self._lacks = dict[str, float]()

    def lacks(self, path: str) -> bool:
        """Return whether it said within an hour that there is nothing."""
        return self._is_new(self._lacks.get(path))

    def _is_new(self, since_s: float | None) -> bool:
        return since_s is not None and time.monotonic() - since_s < self._believed_s

    def forget(self) -> None:
        """Forget all of it: another server may answer there now."""
        self._has.clear()
        self._lacks.clear()

    async def learn(
        self, client: Client, key: Headers, path: str, status: int, body: bytes
    ) -> bool:
        """Return whether an answer says that there is no such address, and remember it.

        A 404 can be about the model too. It is about the address if one that nobody has is answered with
        the same words; the upstream is asked for that once an hour. If it does not answer that, the
        answer counts as one about the model, and nothing is remembered. key: the headers that show its key.
        """
        if status == 404:
            if self._is_new(self._has.get(path)):
                return False
            is_nothing = await _is_nothing(client, key, path, body)
            if is_nothing is False:
                self._has[path] = time.monotonic()
            if not is_nothing:
                return False
        self._lacks[path] = time.monotonic()
        return True


async def _is_nothing(client: Client, key: Headers, path: str, body: bytes) -> bool | None:
    """Return whether an address that nobody has is answered with these words; None if it is not known."""
    other = path + _OF_NOBODY
    headers = [*key, (b"content-type", b"application/json")]
    try:
        answer = await client.send("POST", other, headers, b"{}")
        found = await answer.body()
    except UpstreamError:
        return None
    return answer.status == 404 and found.replace(other.encode(), path.encode()) == body
