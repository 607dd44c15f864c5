"""How an upstream is: a pure state that events change. Refuses to know sockets and clocks.

An upstream that nobody answers for is down until a probe finds it. One that fails rests after three
failures in a row, longer each time; its next failure after the rest makes it rest again. One that is busy
rests for as long as it says.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["UpstreamHealth"]

_MOST_FAILURES = 3
_FIRST_REST_S = 5.0
_LONGEST_REST_S = 300.0


class UpstreamHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How an upstream is. rests: how often it was put to rest without an answer between."""

    status: Literal["up", "loading", "down"] = "down"
    why: str = "not asked yet"
    failures: int = 0
    rests: int = 0
    rest_until_s: float = 0.0

    def answered(self) -> UpstreamHealth:
        """It has answered a request."""
        return UpstreamHealth(status="up", why="")

    def found_up(self) -> UpstreamHealth:
        """A probe found it ready; what it failed at before counts on."""
        was_down = self.status == "down"  # so what it rests for is a start in vain, or a death
        return msgspec.structs.replace(
            self,
            status="up",
            why=self.why if self.failures else "",
            rest_until_s=0.0 if was_down else self.rest_until_s,
        )

    def found_loading(self) -> UpstreamHealth:
        """It says that its model is being loaded."""
        return msgspec.structs.replace(self, status="loading", why="loads its model")

    def unreachable(self, why: str) -> UpstreamHealth:
        """Nobody answers there; if it was started in vain, that is not forgotten."""
        if self.status == "down" and self.rest_until_s:
            return self
        return UpstreamHealth(status="down", why=why)

    def busy(self, now_s: float, retry_s: float) -> UpstreamHealth:
        """It refused a request because it has enough of them."""
        until_s = now_s + min(max(retry_s, 1.0), _LONGEST_REST_S)
        return msgspec.structs.replace(self, why="is busy", rest_until_s=until_s)

    def did_not_start(self, now_s: float, rest_s: float, why: str) -> UpstreamHealth:
        """It was started in vain, which is not tried again for a while."""
        return UpstreamHealth(
            status="down", why=why, rest_until_s=now_s + max(rest_s, _FIRST_REST_S)
        )

    def failed(self, now_s: float, why: str) -> UpstreamHealth:
        """It failed to answer a request."""
        failures = self.failures + 1
        if failures < _MOST_FAILURES:
            return msgspec.structs.replace(self, failures=failures, why=why)
        rest_s = min(_FIRST_REST_S * 2**self.rests, _LONGEST_REST_S)
        return msgspec.structs.replace(
            self,
            failures=_MOST_FAILURES - 1,
            rests=min(self.rests + 1, 10),
            rest_until_s=now_s + rest_s,
            why=why,
        )
