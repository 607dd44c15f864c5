"""Reads an answer while it is generated: its tokens in, its parsed pieces out.

Knows stop strings, tokens' logprobs and the chat parser, and what must be checked at the end.
Refuses to know how the engine is reached, and HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self

import msgspec

from dure.chat.format import PreparedChat
from dure.chat.parser import Parsed
from dure.chat.task import (
    Content,
    Finished,
    GenerationOptions,
    PromptScores,
    Reasoning,
    TokenLogprob,
    ToolArguments,
    ToolCall,
)
from dure.chat.text import Chunk, TextAssembler
from dure.errors import EngineError
from dure.generate.request import Done, PromptLogprobs, Timings, Token

__all__ = ["AnswerParser", "AnswerReader", "CheckedParser", "PlainParser", "Promise", "TokenBytes"]

TokenBytes = Callable[[int, bool], bytes]
"""The bytes of a token; the flag: whether special tokens are visible."""


@dataclass(frozen=True)
class Promise:
    """A part of an answer, and the schema that it must follow. rule: what asked for it.

    must: the answer fails without it; else it is only told.
    """

    rule: str
    schema: Any
    text: str
    must: bool = True


class AnswerParser(Protocol):
    """Parses the text of one answer, and tells what it must follow."""

    @property
    def called(self) -> bool:
        """Whether a tool has been called."""

    def feed(self, text: str) -> Iterable[Parsed]:
        """Return the pieces that more text decides."""

    def finish(self) -> Iterable[Parsed]:
        """Return the pieces of the text that was held back."""

    def promises(self) -> list[Promise]:
        """Return what the whole answer must follow, once it has ended."""


class PlainParser:
    """Takes all text as content, as text completions do."""

    called = False

    def feed(self, text: str) -> Iterable[Parsed]:
        """Return the text itself."""
        return (Content(text),) if text else ()

    def finish(self) -> Iterable[Parsed]:
        """Return nothing: no text is held back."""
        return ()

    def promises(self) -> list[Promise]:
        """Return nothing: any text will do."""
        return []


class CheckedParser:
    """Parses a chat's answer with its parser, and remembers what must be checked at the end."""

    def __init__(self, prepared: PreparedChat) -> None:
        self._prepared, self._parser = prepared, prepared.parser()
        self._content: list[str] = []
        self._calls: dict[int, tuple[str, list[str]]] = {}

    @property
    def called(self) -> bool:
        """Whether a tool has been called."""
        return bool(self._calls)

    def feed(self, text: str) -> Iterator[Parsed]:
        """Return the pieces that more text decides."""
        return self._noted(self._parser.feed(text))

    def finish(self) -> Iterator[Parsed]:
        """Return the pieces of the text that was held back."""
        return self._noted(self._parser.finish())

    def _noted(self, pieces: Iterable[Parsed]) -> Iterator[Parsed]:
        for piece in pieces:
            if isinstance(piece, Content):
                self._content.append(piece.text)
            elif isinstance(piece, ToolCall):
                self._calls[piece.index] = (piece.name, [])
            elif isinstance(piece, ToolArguments):
                self._calls[piece.index][1].append(piece.text)
            yield piece

    def promises(self) -> list[Promise]:
        """Return the schemas that calls and content must follow."""
        prepared = self._prepared
        if self._calls:
            return [
                Promise(f"the call of {name}", prepared.tools[name], "".join(arguments))
                for name, arguments in self._calls.values()
                if name in prepared.strict_tools
            ]
        if prepared.content_schema is None:
            return []
        text = "".join(self._content)
        return [Promise("response_format", prepared.content_schema, text, prepared.content_strict)]


class AnswerReader:
    """Turns one answer's tokens into pieces: `feed` each token, then `finish`.

    token_bytes: of the model's vocabulary. stop: texts that end the answer. special: whether the parser
    must see special tokens. logprobs: whether pieces carry those of their tokens.
    """

    def __init__(
        self,
        token_bytes: TokenBytes,
        parser: AnswerParser,
        *,
        stop: Sequence[str] = (),
        special: bool = False,
        logprobs: bool = False,
    ) -> None:
        self._bytes, self._parser = token_bytes, parser
        self._special, self._logprobs = special, logprobs
        self._text: TextAssembler[Token] = TextAssembler(stop)
        self._tokens: list[Token] = []  # read, but not yet part of a piece
        self.n_tokens = 0
        self.n_reasoning_tokens = 0

    @classmethod
    def of_chat(
        cls, token_bytes: TokenBytes, prepared: PreparedChat, options: GenerationOptions
    ) -> Self:
        """Return the reader of the answer to a conversation."""
        return cls(
            token_bytes,
            CheckedParser(prepared),
            stop=options.stop,
            special=prepared.special,
            logprobs=options.n_logprobs is not None,
        )

    @classmethod
    def of_text(
        cls, token_bytes: TokenBytes, options: GenerationOptions, *, special: bool = False
    ) -> Self:
        """Return the reader of a text's continuation. special: show special tokens by name."""
        return cls(
            token_bytes,
            PlainParser(),
            stop=options.stop,
            special=special,
            logprobs=options.n_logprobs is not None,
        )

    @property
    def stop_text(self) -> str | None:
        """The stop string that was met, None before. Feed no more tokens then."""
        return self._text.stop

    @property
    def called(self) -> bool:
        """Whether a tool has been called."""
        return self._parser.called

    def feed(self, token: Token) -> Iterator[Parsed]:
        """Yield the pieces that one more token decides."""
        self.n_tokens += 1
        data = self._bytes(token.token, self._special)
        return self._pieces(self._text.feed(data, token))

    def finish(self) -> Iterator[Parsed]:
        """Yield the pieces of what was held back."""
        if self.stop_text is None:
            yield from self._pieces(self._text.finish())
        for piece in self._parser.finish():
            yield self._with_tokens(piece)
        if self._tokens and self._logprobs:  # without text, such as half a character cut off
            yield Content("", self._logprobs_of(self._tokens))

    def end(self, done: Done) -> Iterator[Parsed | Finished]:
        """Yield the pieces of what was held back, and the end.

        Raises EngineError if the answer was cancelled, but not because it had met a stop string.
        """
        stop = self.stop_text  # one that half a character would complete comes too late
        yield from self.finish()
        reason: Literal["stop", "length", "tool_calls"] = "tool_calls" if self.called else "stop"
        if done.reason == "cancelled" and stop is None:
            raise EngineError("the answer was ended at the server before it was complete")
        if done.reason == "length" and stop is None:
            reason = "length"
        timings = done.timings if stop is None else _up_to(self.n_tokens, done.timings)
        yield Finished(reason, timings, stop, self.n_reasoning_tokens)

    def prompt_scores(self, prompt: Sequence[int], event: PromptLogprobs) -> PromptScores:
        """Return what is told of some of a prompt's tokens."""
        tokens = prompt[event.start : event.start + len(event.logprobs)]
        told = zip(tokens, event.logprobs, event.tops, strict=True)
        return PromptScores(tuple(self._scored(*one) for one in told))

    def promises(self) -> list[Promise]:
        """Return what the whole answer must follow."""
        return self._parser.promises()

    def _pieces(self, chunk: Chunk[Token]) -> Iterator[Parsed]:
        self._tokens += chunk.tokens
        for piece in self._parser.feed(chunk.text) if chunk.text else ():
            yield self._with_tokens(piece)

    def _with_tokens(self, piece: Parsed) -> Parsed:
        """Give a chunk's tokens to its first text; those of a tool call's markup are dropped."""
        tokens, self._tokens = self._tokens, []
        if not tokens or not isinstance(piece, Content | Reasoning):
            return piece
        if isinstance(piece, Reasoning):
            self.n_reasoning_tokens += len(tokens)
            return replace(piece, logprobs=self._logprobs_of(tokens))
        ids = tuple(token.token for token in tokens)
        return Content(piece.text, self._logprobs_of(tokens), ids)

    def _logprobs_of(self, tokens: Sequence[Token]) -> tuple[TokenLogprob, ...]:
        return tuple(self._logprob(token) for token in tokens) if self._logprobs else ()

    def _logprob(self, token: Token) -> TokenLogprob:
        return self._scored(token.token, token.logprob or 0.0, token.top)

    def _scored(self, token: int, logprob: float, top: Sequence[tuple[int, float]]) -> TokenLogprob:
        others = tuple(self._entry(other, one) for other, one in top)
        return replace(self._entry(token, logprob), top=others)

    def _entry(self, token: int, logprob: float) -> TokenLogprob:
        data = self._bytes(token, True)
        return TokenLogprob(data.decode("utf-8", "replace"), data, logprob, token)


def _up_to(n: int, timings: Timings) -> Timings:
    """Return the timings of an answer's first n tokens: what follows a stop string is no answer."""
    steps = max(0, n - 1)
    if steps >= timings.n_steps:
        return timings
    part = steps / timings.n_steps
    return msgspec.structs.replace(
        timings,
        tokens=n,
        generate_s=timings.generate_s * part,
        compute_s=timings.compute_s * part,
        sync_s=timings.sync_s * part,
    )
