"""One answer while it is generated: its pieces as they come, and all of it at the end.

Knows how an answer ends. Refuses to know how it was asked for.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from typing import Self

from dure.chat.answer_reader import AnswerReader, Promise
from dure.chat.parser import Parsed
from dure.chat.task import Content, Finished, Reasoning, TokenLogprob, ToolArguments, ToolCall
from dure.errors import EngineError, UsageError, revived
from dure.generate.request import Done, Event, Failed, Request, Token
from dure.library.answers import Answer, CallOfTool, Piece
from dure.library.shared_loop import SharedLoop
from dure.library.wording import in_python

__all__ = ["AnswerStream"]


class AnswerStream:
    """The pieces of an answer, as they are generated; iterate it once.

    Leaving it early (`close`, the end of a `with` block, dropping it) ends the generation.
    check: returns in what a finished part of the answer does not follow its schema.
    """

    def __init__(
        self,
        loop: SharedLoop,
        request: Request,
        reader: AnswerReader,
        check: Callable[[Promise], str | None],
    ) -> None:
        self._loop, self._id, self._reader, self._check = loop, request.id, reader, check
        self._pieces: deque[Piece] = deque()
        self._text, self._reasoning = "", ""
        self._calls: list[tuple[ToolCall, list[str]]] = []
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._answer: Answer | None = None
        self._has_ended = False
        loop.submit(request)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Piece:
        while not self._pieces:
            if self._has_ended:
                raise StopIteration
            self._read(self._loop.next(self._id))
        return self._pieces.popleft()

    def answer(self) -> Answer:
        """Return the whole answer, once all of it is generated; what is not read yet is skipped.

        Raises UsageError if the stream was closed before.
        """
        for _ in self:
            pass
        if self._answer is None:
            raise UsageError("this answer was ended before it was complete", "read it to its end")
        return self._answer

    def close(self) -> None:
        """End the generation. Nothing happens if it has ended."""
        self._has_ended = True
        self._pieces.clear()
        self._loop.forget(self._id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._loop.forget(self._id)

    # ------------------------------------------------------------ events

    def _read(self, event: Event) -> None:
        match event:
            case Token() if self._reader.stop_text is None:
                self._tokens.append(event.token)
                self._add(self._reader.feed(event))
                if self._reader.stop_text is not None:
                    self._loop.cancel(self._id)
            case Done():
                self._end(event)
            case Failed():
                self.close()
                raise in_python(revived(event.error))

    def _add(self, pieces: Iterable[Parsed]) -> None:
        for piece in pieces:
            match piece:
                case Content(text, logprobs):
                    self._text += text
                    self._logprobs += logprobs
                    self._pieces += [Piece(text)] if text else []
                case Reasoning(text, logprobs):
                    self._reasoning += text
                    self._logprobs += logprobs
                    self._pieces.append(Piece(reasoning=text))
                case ToolCall():
                    self._calls.append((piece, []))
                case ToolArguments(text=text):
                    self._calls[-1][1].append(text)

    def _end(self, done: Done) -> None:
        self._has_ended = True
        self._loop.forget(self._id)
        *rest, end = self._reader.end(done)
        assert isinstance(end, Finished)
        self._add(piece for piece in rest if not isinstance(piece, Finished))
        if end.reason != "length" and end.stop_text is None:
            for promise in self._reader.promises():
                self._keep(promise)
        self._answer = Answer(
            text=self._text,
            finish=end.reason,
            tokens=tuple(self._tokens),
            timings=end.timings,
            reasoning=self._reasoning,
            tool_calls=tuple(_call(call, "".join(parts)) for call, parts in self._calls),
            logprobs=tuple(self._logprobs),
        )

    def _keep(self, promise: Promise) -> None:
        if promise.must and (complaint := self._check(promise)) is not None:
            raise EngineError(complaint, "ask again")


def _call(call: ToolCall, arguments: str) -> CallOfTool:
    try:
        value = json.loads(arguments or "{}")
    except ValueError:  # cut off by max_tokens
        value = None
    return CallOfTool(call.id, call.name, value if isinstance(value, dict) else {})
