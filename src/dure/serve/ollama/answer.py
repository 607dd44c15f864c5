"""An answer in Ollama's API, as lines of a stream and as one object.

Pure: chat events in, objects out. Refuses to know HTTP and how lines are framed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import msgspec

from dure.chat.task import (
    ChatEvent,
    Content,
    Finished,
    Reasoning,
    TokenLogprob,
    ToolArguments,
    ToolCall,
)
from dure.generate.request import Timings
from dure.http.problems import Problem
from dure.serve.dialect.answering import StreamObject
from dure.serve.dialect.logprobs import logprob_entries
from dure.serve.ollama.errors import ollama_error

__all__ = ["OllamaAnswer", "chatted", "generated", "now"]


class Said(Protocol):
    """Writes what the model said, as one of the two routes does."""

    def __call__(self, content: str, thinking: str, calls: Sequence[StreamObject]) -> StreamObject:
        """Return the fields of a line."""


def chatted(content: str, thinking: str, calls: Sequence[StreamObject]) -> StreamObject:
    """Return the fields of a line of `/api/chat`."""
    message: StreamObject = {"role": "assistant", "content": content}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = list(calls)
    return {"message": message}


def generated(content: str, thinking: str, calls: Sequence[StreamObject]) -> StreamObject:
    """Return the fields of a line of `/api/generate`."""
    said: StreamObject = {"response": content}
    if thinking:
        said["thinking"] = thinking
    if calls:
        said["tool_calls"] = list(calls)
    return said


def now() -> str:
    """Return the time to the nanosecond, as Go writes it."""
    seconds, ns = divmod(time.time_ns(), 10**9)
    return f"{_to_the_second(seconds)}.{ns:09d}Z"


@lru_cache(maxsize=2)
def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class OllamaAnswer:
    """One answer while it is generated; `say` is the route's."""

    def __init__(self, model: str, say: Said) -> None:
        self._model, self._say = model, say
        self._started_s = time.perf_counter()
        self._content: list[str] = []
        self._thinking: list[str] = []
        self._logprobs: list[StreamObject] = []
        self._calls: list[StreamObject] = []
        self._call: tuple[ToolCall, list[str]] | None = None
        self._end: StreamObject = {}

    def loaded(self) -> StreamObject:
        """Return the answer to a request without a prompt: the model is loaded."""
        return {**self._line(), "done": True, "done_reason": "load"}

    def value(self) -> StreamObject:
        """Return the answer in one object."""
        content, thinking = "".join(self._content), "".join(self._thinking)
        line = {**self._line(content, thinking, self._calls), **self._end}
        if self._logprobs:
            line["logprobs"] = self._logprobs
        return line

    def feed(self, event: ChatEvent) -> list[StreamObject]:
        """Return the lines that the next event adds."""
        match event:
            case Content(text, logprobs):
                self._content.append(text)
                return [*self._close(), *self._more(self._line(text), text, logprobs)]
            case Reasoning(text, logprobs):
                self._thinking.append(text)
                return self._more(self._line("", text), text, logprobs)
            case ToolCall():
                lines = self._close()
                self._call = (event, [])
                return lines
            case ToolArguments(_, text):
                if self._call is not None:
                    self._call[1].append(text)
                return []
            case Finished():
                return [*self._close(), self._finish(event)]
            case _:
                return []

    def alive(self) -> list[StreamObject]:
        """Return a line that adds nothing; none once the last line has been written."""
        return [] if self._end else [self._line()]

    def end(self) -> list[StreamObject]:
        """Return nothing: the last line has been written."""
        return []

    def fail(self, problem: Problem) -> list[StreamObject]:
        """Return the line of the error."""
        return [ollama_error(problem)]

    def _line(
        self, content: str = "", thinking: str = "", calls: Sequence[StreamObject] = ()
    ) -> StreamObject:
        head: StreamObject = {"model": self._model, "created_at": now()}
        return {**head, **self._say(content, thinking, calls), "done": False}

    def _more(
        self, line: StreamObject, text: str, logprobs: Sequence[TokenLogprob]
    ) -> list[StreamObject]:
        if logprobs:
            line["logprobs"] = logprob_entries(logprobs)
            self._logprobs += line["logprobs"]
        return [line] if text or logprobs else []

    def _close(self) -> list[StreamObject]:
        """Return the line of a call, which is written whole; one that was cut off is dropped."""
        if self._call is None:
            return []
        call, pieces = self._call
        self._call = None
        try:
            arguments = msgspec.json.decode("".join(pieces) or "{}")
        except msgspec.DecodeError:
            return []
        if not isinstance(arguments, dict):
            return []
        function = {"index": call.index, "name": call.name, "arguments": arguments}
        entry = {"id": call.id, "function": function}
        self._calls.append(entry)
        return [self._line("", "", [entry])]

    def _finish(self, event: Finished) -> StreamObject:
        reason = "length" if event.reason == "length" else "stop"
        elapsed_s = time.perf_counter() - self._started_s
        self._end = {"done": True, "done_reason": reason, **_durations(event.timings, elapsed_s)}
        return {**self._line(), **self._end}


def _durations(timings: Timings, elapsed_s: float) -> StreamObject:
    """Return the durations in nanoseconds. The model was loaded before."""
    return {
        "total_duration": _ns(elapsed_s),
        "load_duration": 0,
        "prompt_eval_count": timings.prompt_tokens,
        "prompt_eval_duration": _ns(timings.prompt_s),
        "eval_count": timings.tokens,
        "eval_duration": _ns(timings.generate_s),
    }


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
