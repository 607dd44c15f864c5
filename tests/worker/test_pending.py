"""What a request's client is told of its prompt, if the engine dies meanwhile."""

from __future__ import annotations

import asyncio

from dure.generate.request import Done, PromptLogprobs, Request, Timings
from dure.worker.pending import PendingRequests


def test_nothing_is_told_twice_of_a_prompt() -> None:
    """A new engine reads the prompt again; its client gets only what it has not had."""
    chunks = [PromptLogprobs("a", at, (-1.0,) * 2, ((),) * 2) for at in (1, 3, 5)]

    async def told() -> list[object]:
        pending = PendingRequests()
        answer = pending.add(Request(id="a", prompt=[1] * 7), lambda _: None)
        for event in chunks[:2]:
            pending.deliver(event)
        pending.engine_died("killed", was_ready=True, forgiven=False)
        for event in chunks:
            pending.deliver(event)
        pending.deliver(Done("a", "length", Timings()))
        return [event async for event in answer]

    assert asyncio.run(told()) == [*chunks, Done("a", "length", Timings())]
