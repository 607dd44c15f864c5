"""Limits what a caller may ask for in a minute, with token buckets.

A bucket is pure: time comes in as a number. The guard knows HTTP, and charges an answer's tokens when
it has ended, so that a caller who took too many waits until they are earned again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from dure.http.access_log import record_of
from dure.http.guards.access import owner_of
from dure.http.guards.asgi import App, Headers, Receive, Scope, Send, with_headers
from dure.http.guards.refusal import Refusal, refuse

__all__ = ["Bucket", "Rate", "RateLimit"]

_FREE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_CALLERS = 10_000


@dataclass(frozen=True)
class Rate:
    """What flows into a bucket. A full one holds a minute's worth, but no less than one."""

    per_minute: float

    @property
    def per_s(self) -> float:
        """The rate in a second."""
        return self.per_minute / 60

    @property
    def capacity(self) -> float:
        """What a full bucket holds."""
        return max(1.0, self.per_minute)


@dataclass
class Bucket:
    """What a caller may still take at the time `at_s`; below 0 it has taken more than it may."""

    rate: Rate
    level: float
    at_s: float

    def fill(self, now_s: float) -> None:
        """Add what has flowed in since `at_s`."""
        self.level = min(self.rate.capacity, self.level + (now_s - self.at_s) * self.rate.per_s)
        self.at_s = now_s

    def wait_s(self, amount: float, now_s: float) -> float:
        """Return how long until `amount` can be taken; 0 if it can be now."""
        self.fill(now_s)
        return max(0.0, (amount - self.level) / self.rate.per_s)

    def take(self, amount: float) -> None:
        """Take an amount, even if there is less."""
        self.level -= amount


class _Buckets:
    """One bucket for each caller; full ones are deleted when there are too many."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._of: dict[str, Bucket] = {}

    def of(self, caller: str, now_s: float) -> Bucket:
        bucket = self._of.get(caller)
        if bucket is None:
            if len(self._of) >= _MAX_CALLERS:
                self._forget(now_s)
            bucket = self._of[caller] = Bucket(self.rate, self.rate.capacity, now_s)
        return bucket

    def _forget(self, now_s: float) -> None:
        for bucket in self._of.values():
            bucket.fill(now_s)
        self._of = {k: b for k, b in self._of.items() if b.level < b.rate.capacity}


class RateLimit:
    """Answers 429 with Retry-After to a key (an address, if there are no keys) that asks too much.

    Reading, as of metrics and models, is free. Reports what is left in OpenAI's `x-ratelimit-*` headers.
    """

    def __init__(
        self,
        app: App,
        requests: Rate | None,
        tokens: Rate | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._now = app, now
        self._requests = _Buckets(requests) if requests else None
        self._tokens = _Buckets(tokens) if tokens else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http" or scope["method"] in _FREE_METHODS:
            await self._app(scope, receive, send)
            return
        caller, now_s = _caller(scope), self._now()
        requests = self._requests.of(caller, now_s) if self._requests else None
        tokens = self._tokens.of(caller, now_s) if self._tokens else None
        if refusal := _refusal(requests, tokens, now_s):
            await refuse(send, refusal, scope["path"])
            return
        if requests:
            requests.take(1)
        sending = with_headers(send, lambda: _left(requests, tokens))
        try:
            await self._app(scope, receive, sending)
        finally:
            self._charge(scope, caller)

    def _charge(self, scope: Scope, caller: str) -> None:
        record = record_of(scope)
        if self._tokens and record:
            spent = (record.prompt_tokens or 0) + (record.completion_tokens or 0)
            bucket = self._tokens.of(caller, self._now())
            bucket.fill(self._now())
            bucket.take(spent - (record.cached_tokens or 0))


def _refusal(requests: Bucket | None, tokens: Bucket | None, now_s: float) -> Refusal | None:
    if requests and (wait_s := requests.wait_s(1, now_s)) > 0:
        limit = f"{requests.rate.per_minute:g} requests a minute"
        return Refusal(429, f"this key may make {limit}: try again in {wait_s:.0f} s", wait_s)
    if tokens and (wait_s := tokens.wait_s(min(1.0, tokens.rate.capacity), now_s)) > 0:
        limit = f"{tokens.rate.per_minute:g} tokens a minute"
        return Refusal(429, f"this key may use {limit}: try again in {wait_s:.0f} s", wait_s)
    return None


def _left(requests: Bucket | None, tokens: Bucket | None) -> Headers:
    headers: Headers = []
    for name, bucket in ((b"requests", requests), (b"tokens", tokens)):
        if bucket:
            headers.append((b"x-ratelimit-limit-" + name, b"%d" % bucket.rate.capacity))
            headers.append((b"x-ratelimit-remaining-" + name, b"%d" % max(0.0, bucket.level)))
    return headers


def _caller(scope: Scope) -> str:
    client = scope.get("client")
    return owner_of(scope) or (f"@{client[0]}" if client else "")
