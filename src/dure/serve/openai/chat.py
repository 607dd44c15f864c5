"""/v1/chat/completions: conversations, streamed or whole.

Knows OpenAI's objects of an answer. Refuses to know templates, grammars and how tool calls look in text.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from dure.chat.format import PreparedChat
from dure.chat.task import (
    ChatEvent,
    Content,
    Finished,
    PromptProgress,
    Reasoning,
    ToolArguments,
    ToolCall,
)
from dure.http.body import JsonRoute
from dure.http.problems import json_response, openai_error, problem_of
from dure.http.sse import EventStream, opened, sse, while_connected
from dure.serve.openai.answers import ChatCompletion, InputTokens, documented
from dure.serve.openai.chat_request import ChatRequest
from dure.serve.openai.live import LiveTimings
from dure.serve.openai.usage import logprob_entries, progress_of, timings_of, usage_of
from dure.serve.runner import run_chats
from dure.serve.runs import Merged
from dure.serve.state import ServerState, State, owner_of

__all__ = ["failure_chunk", "router"]

router = APIRouter(route_class=JsonRoute, tags=["chat"])


@router.post("/v1/chat/completions", **documented(ChatCompletion, stream=True))
@router.post("/chat/completions", **documented(ChatCompletion, stream=True, alias=True))
async def create_chat_completion(body: ChatRequest, request: Request, state: State) -> Response:
    """Answer a conversation."""
    options = body.options(state, owner_of(request), body.n_logprobs())
    prepared = await state.prepare(body.as_task())
    events = run_chats(state, prepared, options, body.n or 1)
    answer = _Answer(state, body, prepared)
    if not body.stream:
        return await while_connected(request, answer.whole(events))
    chunks = await opened(answer.chunks(events), request)
    if chunks is None:
        return Response(status_code=499)
    return EventStream(chunks, failure_chunk, keep_alive_s=state.keep_alive_s)


@router.post("/v1/chat/completions/input_tokens", **documented(InputTokens))
@router.post("/chat/completions/input_tokens", **documented(InputTokens, alias=True))
async def count_input_tokens(body: ChatRequest, state: State) -> Response:
    """How many tokens the prompt of a conversation has."""
    prepared = await state.prepare(body.as_task())
    return json_response({"object": "response.input_tokens", "input_tokens": len(prepared.prompt)})


def failure_chunk(error: Exception) -> bytes:
    """What a stream says where it breaks off."""
    return sse(openai_error(problem_of(error)))


class _Answer:
    """The objects that answer one request."""

    def __init__(self, state: ServerState, body: ChatRequest, prepared: PreparedChat) -> None:
        self._body, self._prepared = body, prepared
        self._state = state
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": state.model,
            "system_fingerprint": state.fingerprint,
        }

    async def whole(self, events: Merged[ChatEvent]) -> Response:
        """The answer in one object."""
        choices = [_Choice(index) for index in range(self._body.n or 1)]
        async with aclosing(events):
            async for index, event in events:
                choices[index].add(event)
        finished = [choice.finished for choice in choices if choice.finished is not None]
        logprobs = bool(self._body.logprobs)
        answer = {
            **self._head,
            "object": "chat.completion",
            "choices": [choice.object(logprobs) for choice in choices],
            "usage": usage_of(finished),
            "timings": timings_of(finished[0].timings),
            **self._verbose(),
        }
        return json_response(answer)

    def _verbose(self) -> dict[str, Any]:
        return {"__verbose": {"prompt": self._prepared.prompt_text}} if self._body.verbose else {}

    async def chunks(self, events: Merged[ChatEvent]) -> AsyncGenerator[bytes, None]:
        """The answer in chunks: a role first, deltas, a finish, and usage where it is asked for."""
        n = self._body.n or 1
        writers = [_Writer(index, self._body, self._chunk) for index in range(n)]
        finished: dict[int, Finished] = {}
        async with aclosing(events):
            async for index, event in events:
                if isinstance(event, Finished):
                    finished[index] = event
                for chunk in writers[index].write(event):
                    yield chunk
        options = self._body.stream_options
        if options is not None and options.include_usage:
            ends = [finished[index] for index in sorted(finished)]
            last = {"usage": usage_of(ends), "timings": timings_of(ends[0].timings)}
            yield sse({**self._chunk([]), **last})
        yield b"data: [DONE]\n\n"

    def _chunk(self, choices: list[Any]) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": choices}


class _Writer:
    """The chunks of one choice."""

    def __init__(
        self, index: int, body: ChatRequest, chunk: Callable[[list[Any]], dict[str, Any]]
    ) -> None:
        self._index, self._chunk = index, chunk
        self._begun = False
        self._logprobs = bool(body.logprobs)
        self._progress = bool(body.return_progress)
        self._live = LiveTimings() if body.timings_per_token else None

    def write(self, event: ChatEvent) -> list[bytes]:
        """The chunks of an event."""
        first = [] if self._begun else [self._delta({"role": "assistant", "content": None})]
        self._begun = True
        if self._live is not None:
            self._live.see(event)
        if isinstance(event, PromptProgress):
            return [*first, self._progressed(event)] if self._progress else first
        if isinstance(event, Finished):
            return [*first, self._finish(event)]
        return [*first, self._delta(_delta_of(event), event)]

    def _delta(self, delta: dict[str, Any], event: ChatEvent | None = None) -> bytes:
        chunk = self._chunk([self._choice(delta, None, event)])
        if self._live is not None and event is not None:
            chunk["timings"] = self._live.timings()
        return sse(chunk)

    def _choice(
        self, delta: dict[str, Any], reason: str | None, event: ChatEvent | None = None
    ) -> dict[str, Any]:
        logprobs = None
        if self._logprobs and isinstance(event, Content):
            logprobs = {"content": logprob_entries(event.logprobs), "refusal": None}
        return {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _progressed(self, event: PromptProgress) -> bytes:
        return sse({**self._chunk([self._choice({}, None)]), "prompt_progress": progress_of(event)})

    def _finish(self, event: Finished) -> bytes:
        chunk = self._chunk([self._choice({}, event.reason)])
        return sse({**chunk, "timings": timings_of(event.timings)})


def _delta_of(event: Content | Reasoning | ToolCall | ToolArguments) -> dict[str, Any]:
    if isinstance(event, Content):
        return {"content": event.text}
    if isinstance(event, Reasoning):
        return {"reasoning_content": event.text}
    if isinstance(event, ToolArguments):
        return {"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]}
    function = {"name": event.name, "arguments": ""}
    call = {"index": event.index, "id": event.id, "type": "function", "function": function}
    return {"tool_calls": [call]}


class _Choice:
    """One choice, collected."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._logprobs: list[dict[str, Any]] = []
        self.finished: Finished | None = None

    def add(self, event: ChatEvent) -> None:
        """Take in an event."""
        if isinstance(event, Content):
            self._content.append(event.text)
            self._logprobs += logprob_entries(event.logprobs)
        elif isinstance(event, Reasoning):
            self._reasoning.append(event.text)
        elif isinstance(event, ToolCall):
            function = {"name": event.name, "arguments": ""}
            self._calls[event.index] = {"id": event.id, "type": "function", "function": function}
        elif isinstance(event, ToolArguments):
            self._calls[event.index]["function"]["arguments"] += event.text
        elif isinstance(event, Finished):
            self.finished = event

    def object(self, logprobs: bool) -> dict[str, Any]:
        """The choice as OpenAI has it."""
        assert self.finished is not None
        content = "".join(self._content)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["content"] = content or None
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        return {
            "index": self._index,
            "message": message,
            "logprobs": {"content": self._logprobs, "refusal": None} if logprobs else None,
            "finish_reason": self.finished.reason,
        }
