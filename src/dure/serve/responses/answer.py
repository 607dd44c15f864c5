"""An answer in the Responses API, as a stream of typed events and as one object.

Pure: chat events in, events out; the object is what the events so far add up to.
Refuses to know HTTP and how events are framed.
"""

from __future__ import annotations

import time
import uuid
from typing import Any, Literal

from dure.chat.task import (
    ChatEvent,
    Content,
    Finished,
    PromptProgress,
    Reasoning,
    ToolArguments,
    ToolCall,
)
from dure.generate.request import Timings
from dure.http.problems import Problem
from dure.serve.dialect.answering import StreamObject
from dure.serve.dialect.timings import LiveTimings, progress_of, timings_of
from dure.serve.responses.items import CallOutput, MessageOutput, OutputItem, ReasoningOutput
from dure.serve.responses.mapping import LOGPROBS, SEALED_REASONING
from dure.serve.responses.requests import ResponsesRequest

__all__ = ["ResponseAnswer"]

_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}

ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]


class ResponseAnswer:
    """One response while it is generated.

    echo: fields of the response that repeat the request.
    """

    def __init__(self, request: ResponsesRequest, echo: dict[str, Any]) -> None:
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created_at = int(time.time())
        self._completed_at: int | None = None
        self._echo = echo
        include = request.include or ()
        self._with_logprobs, self._seal = LOGPROBS in include, SEALED_REASONING in include
        self._status: ResponseStatus = "in_progress"
        self._items: list[OutputItem] = []
        self._open: MessageOutput | ReasoningOutput | None = None
        self._calls: dict[int, CallOutput] = {}
        self._usage: dict[str, Any] | None = None
        self._incomplete: dict[str, Any] | None = None
        self._error: dict[str, Any] | None = None
        self._with_progress = request.return_progress
        self._live = LiveTimings() if request.timings_per_token else None
        self._begun = False
        self._n_events = 0

    def value(self) -> dict[str, Any]:
        """Return the response so far."""
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created_at,
            "completed_at": self._completed_at,
            "status": self._status,
            "error": self._error,
            "incomplete_details": self._incomplete,
            **self._echo,
            "output": [item.value() for item in self._items],
            "usage": self._usage,
        }

    def feed(self, event: ChatEvent) -> list[StreamObject]:
        """Return the stream's events for the next chat event; the first ones announce the response."""
        begun = self._begin()
        events = self._events(event)
        if self._live is not None:
            self._live.observe(event)
            events = [{"timings": self._live.timings(), **one} for one in events]
        return self._numbered([*begun, *events])

    def alive(self) -> list[StreamObject]:
        """Return the response so far, or what announces it; nothing once it has ended."""
        if self._status != "in_progress":
            return []
        so_far = {"type": "response.in_progress", "response": self.value()}
        return self._numbered(self._begin() or [so_far])

    def end(self) -> list[StreamObject]:
        """Return nothing: the last event has the whole response."""
        return []

    def fail(self, problem: Problem) -> list[StreamObject]:
        """Return the events of a response whose generation fails in the middle."""
        events = [*self._begin(), *self._close_all("incomplete")]
        code = _CODES.get(problem.status, "server_error")
        self._status, self._error = "failed", {"code": code, "message": problem.message}
        return self._numbered([*events, {"type": "response.failed", "response": self.value()}])

    def _begin(self) -> list[StreamObject]:
        if self._begun:
            return []
        self._begun = True
        kinds = ("response.created", "response.in_progress")
        return [{"type": kind, "response": self.value()} for kind in kinds]

    def _events(self, event: ChatEvent) -> list[StreamObject]:
        match event:
            case Content(text, logprobs):
                item, events = self._message()
                return [*events, item.more(text, logprobs)]
            case Reasoning(text):
                thought, events = self._thought()
                return [*events, thought.more(text)]
            case ToolCall(index, id, name):
                return self._begin_call(index, id, name)
            case ToolArguments(index, text):
                return [self._calls[index].more(text)]
            case PromptProgress():
                return self._progress(event)
            case Finished():
                return self._finish(event)

    def _progress(self, event: PromptProgress) -> list[StreamObject]:
        if not self._with_progress:
            return []
        fields = {"response": self.value(), "prompt_progress": progress_of(event)}
        return [{"type": "response.in_progress", **fields}]

    def _message(self) -> tuple[MessageOutput, list[StreamObject]]:
        if isinstance(self._open, MessageOutput):
            return self._open, []
        events = self._close_all("completed")
        item = MessageOutput(len(self._items), with_logprobs=self._with_logprobs)
        self._items.append(item)
        self._open = item
        return item, [*events, *item.opened()]

    def _thought(self) -> tuple[ReasoningOutput, list[StreamObject]]:
        if isinstance(self._open, ReasoningOutput):
            return self._open, []
        events = self._close_all("completed")
        item = ReasoningOutput(len(self._items), seal=self._seal)
        self._items.append(item)
        self._open = item
        return item, [*events, *item.opened()]

    def _begin_call(self, index: int, call_id: str, name: str) -> list[StreamObject]:
        events = self._close_all("completed")
        call = CallOutput(len(self._items), call_id, name)
        self._items.append(call)
        self._calls[index] = call
        return [*events, *call.opened()]

    def _close_all(self, status: Literal["completed", "incomplete"]) -> list[StreamObject]:
        events: list[StreamObject] = []
        for item in (self._open, *self._calls.values()):
            if item is not None and item.status == "in_progress":
                events += item.closed(status)
        self._open = None
        return events

    def _finish(self, event: Finished) -> list[StreamObject]:
        whole = event.reason in ("stop", "tool_calls")
        events = self._close_all("completed" if whole else "incomplete")
        self._status = "completed" if whole else "incomplete"
        self._incomplete = None if whole else {"reason": "max_output_tokens"}
        self._completed_at = int(time.time()) if whole else None
        self._usage = _usage_of(event.timings, event.reasoning_tokens)
        last = {"type": f"response.{self._status}", "response": self.value()}
        return [*events, {**last, "timings": timings_of(event.timings)}]

    def _numbered(self, events: list[StreamObject]) -> list[StreamObject]:
        for event in events:
            event["sequence_number"] = self._n_events
            self._n_events += 1
        return events


def _usage_of(timings: Timings, reasoning_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": timings.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": timings.cached_tokens,
            "cache_write_tokens": timings.prompt_tokens - timings.cached_tokens,
        },
        "output_tokens": timings.tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": timings.prompt_tokens + timings.tokens,
    }
