"""An answer to a conversation in OpenAI's API, as chunks of a stream and as one object.

Pure: chat events in, objects out. Refuses to know HTTP, templates, grammars and how tool calls look in
text.
"""

from __future__ import annotations

import time
import uuid
from itertools import islice
from typing import Any

from dure.chat.task import (
    ChatEvent,
    Content,
    Finished,
    PromptProgress,
    Reasoning,
    ToolArguments,
    ToolCall,
)
from dure.http.problems import Problem, openai_error
from dure.serve.dialect.answering import StreamObject
from dure.serve.dialect.logprobs import logprob_entries
from dure.serve.dialect.timings import LiveTimings, progress_of, timings_of
from dure.serve.openai.chat_request import OpenAIChatRequest
from dure.serve.openai.usage import usage_of

__all__ = ["ChatAnswer"]


class ChatAnswer:
    """The answer to one request, with all of its choices.

    model, fingerprint: as they are shown. prompt_text: the prompt as the model reads it.
    """

    def __init__(
        self, request: OpenAIChatRequest, model: str, fingerprint: str, prompt_text: str
    ) -> None:
        self._request, self._prompt_text = request, prompt_text
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._choices = [ChatChoiceWriter(index, request) for index in range(request.n or 1)]

    def feed(self, indexed: tuple[int, ChatEvent]) -> list[StreamObject]:
        """Return the chunks of an event of one choice."""
        index, event = indexed
        return [self._chunk(**fields) for fields in self._choices[index].feed(event)]

    def alive(self) -> list[StreamObject]:
        """Return an empty chunk of a choice that has not ended."""
        going = (choice for choice in self._choices if choice.finished is None)
        return [self._chunk(**fields) for choice in islice(going, 1) for fields in choice.alive()]

    def end(self) -> list[StreamObject]:
        """Return the chunk with the usage, if it was asked for."""
        options = self._request.stream_options
        if options is None or not options.include_usage:
            return []
        return [self._chunk(choices=[], **self._figures())]

    def value(self) -> dict[str, Any]:
        """Return the answer in one object."""
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice.value() for choice in self._choices],
            **self._figures(),
            **({"__verbose": {"prompt": self._prompt_text}} if self._request.verbose else {}),
        }

    def fail(self, problem: Problem) -> list[StreamObject]:
        """Return the error."""
        return [openai_error(problem)]

    def _figures(self) -> dict[str, Any]:
        finished = [choice.finished for choice in self._choices if choice.finished is not None]
        return {"usage": usage_of(finished), "timings": timings_of(finished[0].timings)}

    def _chunk(self, **fields: Any) -> StreamObject:
        return {**self._head, "object": "chat.completion.chunk", **fields}


class ChatChoiceWriter:
    """One choice while it is generated: its chunks, and what they add up to."""

    def __init__(self, index: int, request: OpenAIChatRequest) -> None:
        self._index = index
        self._with_logprobs = bool(request.logprobs)
        self._with_progress = bool(request.return_progress)
        self._live = LiveTimings() if request.timings_per_token else None
        self._is_legacy = bool(request.functions)
        self._has_begun = False
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._logprobs: list[dict[str, Any]] = []
        self.finished: Finished | None = None

    def feed(self, event: ChatEvent) -> list[dict[str, Any]]:
        """Take in an event, and return the fields of its chunks; the first chunk has the role."""
        first = self._begin()
        if self._live is not None:
            self._live.observe(event)
        match event:
            case PromptProgress():
                return [*first, self._progressed(event)] if self._with_progress else first
            case Finished():
                self.finished = event
                return [*first, self._finish(event)]
            case _:
                return [*first, self._more(event)]

    def alive(self) -> list[dict[str, Any]]:
        """Return the fields of a chunk that adds nothing, or of the first one."""
        return self._begin() or [self._delta({})]

    def _begin(self) -> list[dict[str, Any]]:
        if self._has_begun:
            return []
        self._has_begun = True
        return [self._delta({"role": "assistant", "content": None})]

    def value(self) -> dict[str, Any]:
        """Return the choice as OpenAI has it."""
        assert self.finished is not None
        content = "".join(self._content)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["content"] = content or None
            calls = [self._calls[index] for index in sorted(self._calls)]
            called = {"function_call": calls[0]["function"]} if self._is_legacy else None
            message |= called or {"tool_calls": calls}
        return {
            "index": self._index,
            "message": message,
            "logprobs": self._as_logprobs(self._logprobs),
            "finish_reason": self._reason(self.finished),
        }

    def _reason(self, end: Finished) -> str:
        return "function_call" if self._is_legacy and self._calls else end.reason

    def _more(self, event: Content | Reasoning | ToolCall | ToolArguments) -> dict[str, Any]:
        delta, logprobs = self._added(event), None
        if isinstance(event, Content):
            entries = logprob_entries(event.logprobs)
            self._logprobs += entries
            logprobs = self._as_logprobs(entries)
        fields = self._delta(delta, logprobs=logprobs)
        return fields if self._live is None else {**fields, "timings": self._live.timings()}

    def _added(self, event: Content | Reasoning | ToolCall | ToolArguments) -> dict[str, Any]:
        """Add an event to the choice, and return its delta."""
        match event:
            case Content(text):
                self._content.append(text)
                return {"content": text}
            case Reasoning(text):
                self._reasoning.append(text)
                return {"reasoning_content": text}
            case ToolArguments(index, text):
                self._calls[index]["function"]["arguments"] += text
                if self._is_legacy:
                    return {"function_call": {"arguments": text}}
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
            case ToolCall(index, call_id, name):
                self._calls[index] = _call(call_id, name)
                if self._is_legacy:
                    return {"function_call": {"name": name, "arguments": ""}}
                return {"tool_calls": [{"index": index, **_call(call_id, name)}]}

    def _delta(
        self,
        delta: dict[str, Any],
        reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        choice = {
            "index": self._index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        return {"choices": [choice]}

    def _as_logprobs(self, entries: list[dict[str, Any]]) -> dict[str, Any] | None:
        return {"content": entries, "refusal": None} if self._with_logprobs else None

    def _progressed(self, event: PromptProgress) -> dict[str, Any]:
        return {**self._delta({}), "prompt_progress": progress_of(event)}

    def _finish(self, event: Finished) -> dict[str, Any]:
        return {**self._delta({}, self._reason(event)), "timings": timings_of(event.timings)}


def _call(call_id: str, name: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
