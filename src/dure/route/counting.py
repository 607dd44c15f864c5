"""Asks upstreams for the exact number of tokens of a prompt, all at once; the first answer counts.

Knows the addresses that count, of dure, llama-server and Anthropic. Refuses to know when a count is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from dure.route.client import UpstreamError
from dure.route.dialects import RoutedRequest
from dure.route.live_upstream import LiveUpstream

__all__ = ["count_tokens"]

_WAIT_S = 1.0


class _Counted(msgspec.Struct):
    """The answers of all counters: llama-server's of a chat and of a text, and Anthropic's."""

    input_tokens: int | None = None
    count: int | None = None
    tokens: msgspec.Raw = msgspec.Raw(b"null")

    def number(self) -> int | None:
        if self.input_tokens is not None:
            return self.input_tokens
        if self.count is not None:
            return self.count
        return len(msgspec.json.decode(self.tokens, type=list[msgspec.Raw] | None) or ()) or None


async def count_tokens(upstreams: Sequence[LiveUpstream], routed: RoutedRequest) -> int | None:
    """Return the tokens of a request's prompt, None if nobody counts them within a second."""
    tasks = {asyncio.create_task(_count(one, routed)) for one in upstreams}
    waiting = tasks
    try:
        async with asyncio.timeout(_WAIT_S):
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if counts := [found for task in done if (found := task.result()) is not None]:
                    return max(counts)
    except TimeoutError:
        pass
    finally:
        for task in tasks:
            task.cancel()
    return None


async def _count(live: LiveUpstream, routed: RoutedRequest) -> int | None:
    headers = [*live.key_headers(), (b"content-type", b"application/json")]
    try:
        answer = await live.client.send("POST", routed.dialect.count, headers, routed.counted())
        body = await answer.body()
        return msgspec.json.decode(body, type=_Counted).number() if answer.status == 200 else None
    except (UpstreamError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
