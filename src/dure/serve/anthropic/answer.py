"""An answer in Anthropic's API, as a stream of typed events and as one message.

Pure: chat events in, events out; the message is what the events add up to.
Refuses to know HTTP and how events are framed.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

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
from dure.serve.anthropic.errors import anthropic_error
from dure.serve.dialect.answering import StreamObject

__all__ = ["MessageAnswer", "ThoughtsShown"]

ThoughtsShown = Literal["told", "omitted", "hidden"]
_STOP_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}


class MessageAnswer:
    """One message while it is generated.

    n_prompt: tokens of the prompt. stops: the request's stop sequences. max_tokens: of the request.
    thoughts: whether they are shown, or only that there are some, or nothing.
    """

    def __init__(
        self,
        model: str,
        n_prompt: int,
        max_tokens: int,
        stops: Sequence[str] = (),
        *,
        thoughts: ThoughtsShown = "told",
    ) -> None:
        self._id, self._model = f"msg_{uuid.uuid4().hex}", model
        self._n_prompt, self._max_tokens = n_prompt, max_tokens
        self._stops, self._thoughts = frozenset(stops), thoughts
        self._blocks: list[_OutputBlock] = []
        self._begun = False
        self._stop: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}
        self._usage = _usage(n_prompt, 0)

    def value(self) -> dict[str, Any]:
        """Return the message so far."""
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [block.value() for block in self._blocks],
            **self._stop,
            "usage": self._usage,
        }

    def feed(self, event: ChatEvent) -> list[StreamObject]:
        """Return the stream's events for the next chat event."""
        if isinstance(event, PromptProgress):
            return self._begin(event.cached)
        return [*self._begin(0), *self._events(event)]

    def alive(self) -> list[StreamObject]:
        """Return a ping."""
        return [{"type": "ping"}]

    def end(self) -> list[StreamObject]:
        """Return nothing: `message_stop` has been said."""
        return []

    def fail(self, problem: Problem) -> list[StreamObject]:
        """Return the event of the error."""
        return [anthropic_error(problem)]

    def _begin(self, n_cached: int) -> list[StreamObject]:
        if self._begun:
            return []
        self._begun = True
        self._usage = _usage(self._n_prompt, n_cached)
        return [{"type": "message_start", "message": self.value()}, {"type": "ping"}]

    def _events(self, event: ChatEvent) -> list[StreamObject]:
        match event:
            case Content(text):
                return self._write("text", text)
            case Reasoning(text):
                return self._write("thinking", text)
            case ToolCall(_, id, name):
                return self._open(_ToolUseOutput(len(self._blocks), id, name))
            case ToolArguments(_, text):
                return [self._blocks[-1].more(text)]
            case Finished():
                return self._finish(event)
            case _:
                return []

    def _write(self, kind: str, text: str) -> list[StreamObject]:
        if not text or (kind == "thinking" and self._thoughts == "hidden"):
            return []
        events: list[StreamObject] = []
        if not self._blocks or self._blocks[-1].kind != kind:
            events = self._open(self._block(kind))
        return [*events, self._blocks[-1].more(text)] if self._blocks[-1].is_shown else events

    def _block(self, kind: str) -> _OutputBlock:
        thoughts = _ThinkingOutput if self._thoughts == "told" else _OmittedThinking
        return (_TextOutput if kind == "text" else thoughts)(len(self._blocks))

    def _open(self, block: _OutputBlock) -> list[StreamObject]:
        events = self._close()
        self._blocks.append(block)
        return [*events, block.started()]

    def _close(self) -> list[StreamObject]:
        return self._blocks[-1].stopped() if self._blocks else []

    def _finish(self, event: Finished) -> list[StreamObject]:
        events = self._close()
        reason, sequence = _STOP_REASONS[event.reason], None
        if event.stop_text is not None and event.stop_text in self._stops:
            reason, sequence = "stop_sequence", event.stop_text
        elif event.reason == "length" and event.timings.tokens < self._max_tokens:
            reason = "model_context_window_exceeded"
        self._stop = {"stop_reason": reason, "stop_sequence": sequence}
        self._usage = _final_usage(event.timings, event.reasoning_tokens)
        delta = {"type": "message_delta", "delta": self._stop, "usage": self._usage}
        return [*events, delta, {"type": "message_stop"}]


class _OutputBlock:
    """A content block while it is generated."""

    kind = ""
    is_shown = True

    def __init__(self, index: int) -> None:
        self.index = index
        self.pieces: list[str] = []

    def value(self) -> dict[str, Any]:
        raise NotImplementedError

    def delta(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def started(self) -> StreamObject:
        return {"type": "content_block_start", "index": self.index, "content_block": self.value()}

    def more(self, text: str) -> StreamObject:
        self.pieces.append(text)
        return {"type": "content_block_delta", "index": self.index, "delta": self.delta(text)}

    def stopped(self) -> list[StreamObject]:
        return [{"type": "content_block_stop", "index": self.index}]


class _TextOutput(_OutputBlock):
    kind = "text"

    def value(self) -> dict[str, Any]:
        return {"type": "text", "text": "".join(self.pieces), "citations": None}

    def delta(self, text: str) -> dict[str, Any]:
        return {"type": "text_delta", "text": text}


class _ThinkingOutput(_OutputBlock):
    """Thoughts, with an empty signature: clients want one, and there is nothing to sign."""

    kind = "thinking"

    def value(self) -> dict[str, Any]:
        return {"type": "thinking", "thinking": "".join(self.pieces), "signature": ""}

    def delta(self, text: str) -> dict[str, Any]:
        return {"type": "thinking_delta", "thinking": text}

    def stopped(self) -> list[StreamObject]:
        signature = {"type": "signature_delta", "signature": ""}
        delta = {"type": "content_block_delta", "index": self.index, "delta": signature}
        return [delta, *super().stopped()]


class _OmittedThinking(_ThinkingOutput):
    is_shown = False


class _ToolUseOutput(_OutputBlock):
    kind = "tool_use"

    def __init__(self, index: int, call_id: str, name: str) -> None:
        super().__init__(index)
        self._id, self._name = call_id, name

    def value(self) -> dict[str, Any]:
        arguments = _parsed("".join(self.pieces))
        return {"type": "tool_use", "id": self._id, "name": self._name, "input": arguments}

    def delta(self, text: str) -> dict[str, Any]:
        return {"type": "input_json_delta", "partial_json": text}


def _parsed(arguments: str) -> Any:
    """Return the arguments; none if they were cut off: such a call must not be made."""
    try:
        found = msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _usage(n_prompt: int, n_cached: int) -> dict[str, Any]:
    return {
        "input_tokens": n_prompt - n_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": n_cached,
        "output_tokens": 0,
    }


def _final_usage(timings: Timings, thinking_tokens: int) -> dict[str, Any]:
    return {
        **_usage(timings.prompt_tokens, timings.cached_tokens),
        "output_tokens": timings.tokens,
        "output_tokens_details": {"thinking_tokens": thinking_tokens},
    }
