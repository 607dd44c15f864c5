"""Measures an upstream that has not answered yet, with two small requests of the router's own.

Without it an upstream that is believed to be slow would never be asked, and so never be known to be quick.
Refuses to measure what costs money, and to decide when.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from dure.route.answer_watch import AnswerWatch
from dure.route.client import UpstreamError
from dure.route.live_upstream import LiveUpstream

__all__ = ["measure"]

_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_WORDS = (8, 256)  # of the prompts: two lengths tell a speed from what every answer takes
_ANSWER_TOKENS = 16


async def measure(live: LiveUpstream) -> None:
    """Ask an upstream two short questions, and learn from its answers; one that fails is left alone.

    A model that does not chat, as one without a template, is asked to go on with a text.
    """
    for n_words in _WORDS:
        # what it begins with is new each time, so that no cache holds it
        text = f"{time.time()} {'What do you see from the hill? ' * (n_words // 8)}"
        try:
            if not await _ask(live, _CHAT, {"messages": [{"role": "user", "content": text}]}):
                await _ask(live, _COMPLETIONS, {"prompt": text})
        except UpstreamError:
            return


async def _ask(live: LiveUpstream, path: str, prompt: Mapping[str, object]) -> bool:
    """Return whether it has answered."""
    body = {
        **prompt,
        "max_tokens": _ANSWER_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"model": live.default_model} if live.default_model else {}),
    }
    headers = [*live.key_headers(), (b"content-type", b"application/json")]
    watch = AnswerWatch(time.monotonic())
    answer = await live.client.send("POST", path, headers, msgspec.json.encode(body))
    try:
        while piece := await answer.piece():
            watch.see(piece, time.monotonic())
    except BaseException:
        answer.abort()
        raise
    measured = watch.measured(waited=False, believed_cached=0)
    if answer.status == 200 and measured.prompt_tokens and measured.answer_tokens:
        live.learned.observe(measured, live.upstream)
    return answer.status == 200
