"""Asks all upstreams how they are, and decides about a prompt that is not sent."""

from __future__ import annotations

import asyncio

import msgspec

from dure.route.dialects import read_request
from dure.route.learning import Learned
from dure.route.router import RoutePlan, Router
from dure.route.upstream import RouteRules
from dure.route.watching import watching

__all__ = ["explained"]

_PATH = "/v1/chat/completions"


def explained(
    rules: RouteRules,
    learned: Learned,
    prompt: str,
    *,
    model: str = "",
    most: int | None = None,
    key: str = "",
    private: bool = False,
) -> RoutePlan:
    """Return what would be decided now about a chat of one message. Raises UsageError.

    most: tokens of the answer at most. key: the name of the caller's key. What caches hold is known to a
    running router only.
    """
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": most}

    async def planned() -> RoutePlan:
        router = Router(rules, learned)
        async with watching(list(router.upstreams.values())):
            routed = read_request(_PATH, msgspec.json.encode(body), tuple(router.upstreams))
            return await router.plan(routed, key, private=private)

    return asyncio.run(planned())
