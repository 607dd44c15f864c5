"""From a prompt to the events of its answer: what every dialect's stream is made of.

Knows the engine's tokens, stop strings, the chat parser, and when the engine's work must end.
Refuses to know HTTP and how events are written.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import msgspec

from dure.chat.task import (
    ChatEvent,
    Content,
    Finished,
    GenerationOptions,
    PromptProgress,
    Reasoning,
    TokenLogprob,
    ToolArguments,
    ToolCall,
)
from dure.chat.text import Chunk, TextAssembler
from dure.errors import EngineError, revived
from dure.generate.request import (
    Done,
    Event,
    Failed,
    Grammar,
    PrefillProgress,
    Request,
    Sampling,
    Timings,
    Token,
)
from dure.serve.engine import Answer
from dure.serve.runs import Merged, Run
from dure.serve.state import Prepared, ServerState

__all__ = ["TextEvent", "run_chat", "run_chats", "run_text", "run_texts"]

TextEvent = Content | PromptProgress | Finished
Piece = Content | Reasoning | ToolCall | ToolArguments
_UNFINISHED = "the engine ended without finishing the answer: ask again"


def run_chat(
    state: ServerState, prepared: Prepared, options: GenerationOptions, *, index: int = 0
) -> Run[ChatEvent]:
    """Begin an answer to a conversation. index: which of n choices; each has a seed of its own.

    Raises ContextError, BusyError and NotReadyError at once, so before anything is answered.
    Its events end with Finished; a DureError is raised among them where the engine fails.
    """
    stop = (*prepared.stop, *options.stop)
    request = _request(state, prepared.prompt, options, prepared.grammar, index)
    answer = state.engine.submit(request)
    reader = _ChatReader(prepared)
    assembly = _Assembly(state, options, stop, prepared.special, reader)
    return Run(answer, assembly.events(answer, request))


def run_text(
    state: ServerState,
    prompt: list[int],
    options: GenerationOptions,
    grammar: Grammar | None = None,
    *,
    index: int = 0,
    special: bool = False,
) -> Run[TextEvent]:
    """Begin the continuation of a prompt, as `run_chat`. special: show special tokens by name."""
    request = _request(state, prompt, options, grammar, index)
    answer = state.engine.submit(request)
    assembly = _Assembly(state, options, options.stop, special, _TextReader())
    return Run(answer, assembly.events(answer, request))  # type: ignore[arg-type]


def run_chats(
    state: ServerState, prepared: Prepared, options: GenerationOptions, n: int
) -> Merged[ChatEvent]:
    """Begin n answers to one conversation; raises as `run_chat`, and then none has begun."""

    def begin(index: int) -> Run[ChatEvent]:
        return run_chat(state, prepared, options, index=index)

    return Merged(begin, n, state.engine.info.n_sequences)


def run_texts(
    state: ServerState,
    prompts: Sequence[list[int]],
    options: GenerationOptions,
    grammar: Grammar | None = None,
    n: int = 1,
) -> Merged[TextEvent]:
    """Begin n continuations of every prompt: choice p * n + i is the i-th of prompt p."""

    def begin(at: int) -> Run[TextEvent]:
        return run_text(state, prompts[at // n], options, grammar, index=at % n)

    return Merged(begin, n * len(prompts), state.engine.info.n_sequences)


def _request(
    state: ServerState,
    prompt: list[int],
    options: GenerationOptions,
    grammar: Grammar | None,
    index: int,
) -> Request:
    state.ready()
    return Request(
        id=uuid.uuid4().hex,
        prompt=prompt,
        sampling=_with_index(options.sampling, index),
        max_tokens=options.max_tokens,
        n_logprobs=options.n_logprobs,
        grammar=grammar,
        ignore_eos=options.ignore_eos,
        cache_prompt=options.cache_prompt,
        owner=options.owner,
    )


def _with_index(sampling: Sampling, index: int) -> Sampling:
    if sampling.seed is None or index == 0:
        return sampling
    return msgspec.structs.replace(sampling, seed=(sampling.seed + index) % 2**63)


class _TextReader:
    """All text is content."""

    called = False

    def feed(self, text: str) -> Iterable[Piece]:
        return (Content(text),) if text else ()

    def finish(self) -> Iterable[Piece]:
        return ()

    def check(self) -> None:
        """Text is always right."""


class _ChatReader:
    """Reads with the chat's parser; remembers what must be checked at the end."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared, self._parser = prepared, prepared.parser()
        self._content: list[str] = []
        self._calls: dict[int, tuple[str, list[str]]] = {}

    @property
    def called(self) -> bool:
        return bool(self._calls)

    def feed(self, text: str) -> Iterator[Piece]:
        return self._seen(self._parser.feed(text))

    def finish(self) -> Iterator[Piece]:
        return self._seen(self._parser.finish())

    def _seen(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if isinstance(piece, Content):
                self._content.append(piece.text)
            elif isinstance(piece, ToolCall):
                self._calls[piece.index] = (piece.name, [])
            elif isinstance(piece, ToolArguments):
                self._calls[piece.index][1].append(piece.text)
            yield piece

    def check(self) -> None:
        """Raises EngineError where the model did not keep to a schema."""
        for name, arguments in self._calls.values():
            _complain(f"the call of {name}", self._prepared.check_call(name, "".join(arguments)))
        if not self._calls:
            _complain("response_format", self._prepared.check("".join(self._content)))


def _complain(what: str, complaint: str | None) -> None:
    if complaint is not None:
        raise EngineError(f"the model's answer does not follow {what}: {complaint}; ask again")


class _Assembly:
    """Turns one answer's tokens into events."""

    def __init__(
        self,
        state: ServerState,
        options: GenerationOptions,
        stop: tuple[str, ...],
        special: bool,
        reader: _ChatReader | _TextReader,
    ) -> None:
        self._state, self._special, self._reader = state, special, reader
        self._logprobs = options.n_logprobs is not None
        self._text: TextAssembler[Token] = TextAssembler(stop)
        self._tokens: list[Token] = []  # read, but not yet part of an event
        self._n_read = 0
        self._n_reasoning = 0

    async def events(self, answer: Answer, request: Request) -> AsyncGenerator[ChatEvent, None]:
        try:
            async for event in answer:
                for one in self._read(event, answer, request):
                    yield one
                if isinstance(event, Done | Failed):
                    return
            for one in self._failed(Failed(request.id, EngineError(_UNFINISHED).record()), request):
                yield one
        finally:
            answer.cancel()

    def _read(self, event: Event, answer: Answer, request: Request) -> Iterator[ChatEvent]:
        if isinstance(event, Token) and self._text.stop is None:
            yield from self._token(event)
            if self._text.stop is not None:
                answer.cancel()
        elif isinstance(event, PrefillProgress):
            yield PromptProgress(event.total, event.cached, event.processed, event.elapsed_s)
        elif isinstance(event, Done):
            yield from self._done(event)
        elif isinstance(event, Failed):
            yield from self._failed(event, request)

    def _failed(self, event: Failed, request: Request) -> Iterator[ChatEvent]:
        """An answer that has met a stop string was complete before: only its times are not known."""
        if self._text.stop is None:
            raise revived(event.error)
        timings = Timings(prompt_tokens=len(request.prompt), tokens=self._n_read)
        yield from self._done(Done(request.id, "cancelled", timings))

    def _token(self, event: Token) -> Iterator[Piece]:
        self._n_read += 1
        piece = self._state.piece(event.token, self._special)
        return self._pieces(self._text.feed(piece, event))

    def _pieces(self, chunk: Chunk[Token]) -> Iterator[Piece]:
        self._tokens += chunk.tokens
        for piece in self._reader.feed(chunk.text) if chunk.text else ():
            yield self._with_tokens(piece)

    def _with_tokens(self, piece: Piece) -> Piece:
        """The first text of a chunk carries its tokens; those of a tool call's markup go nowhere."""
        tokens, self._tokens = self._tokens, []
        if not tokens or not isinstance(piece, Content | Reasoning):
            return piece
        if isinstance(piece, Reasoning):
            self._n_reasoning += len(tokens)
            return replace(piece, logprobs=self._logprobs_of(tokens))
        ids = tuple(token.token for token in tokens)
        return Content(piece.text, self._logprobs_of(tokens), ids)

    def _logprobs_of(self, tokens: Sequence[Token]) -> tuple[TokenLogprob, ...]:
        return tuple(self._logprob(token) for token in tokens) if self._logprobs else ()

    def _logprob(self, event: Token) -> TokenLogprob:
        top = tuple(self._entry(token, logprob) for token, logprob in event.top)
        return replace(self._entry(event.token, event.logprob or 0.0), top=top)

    def _entry(self, token: int, logprob: float) -> TokenLogprob:
        data = self._state.piece(token, special=True)
        return TokenLogprob(data.decode("utf-8", "replace"), data, logprob, token)

    def _done(self, done: Done) -> Iterator[ChatEvent]:
        stop = self._text.stop
        if stop is None:
            yield from self._pieces(self._text.finish())
        for piece in self._reader.finish():
            yield self._with_tokens(piece)
        if self._tokens and self._logprobs:  # without text, such as half a character cut off
            yield Content("", self._logprobs_of(self._tokens))
        reason = self._reason(done, stop)
        if reason in ("stop", "tool_calls") and stop is None:
            self._reader.check()
        timings = done.timings if stop is None else _up_to(self._n_read, done.timings)
        yield Finished(reason, timings, stop, self._n_reasoning)

    def _reason(
        self, done: Done, stop: str | None
    ) -> Literal["stop", "length", "tool_calls", "cancelled"]:
        if done.reason == "cancelled" and stop is None:
            raise EngineError("the answer was ended at the server before it was complete")
        if done.reason == "length" and stop is None:
            return "length"
        return "tool_calls" if self._reader.called else "stop"


def _up_to(n: int, timings: Timings) -> Timings:
    """The timings of an answer's first n tokens: what came after a stop string is nobody's answer."""
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
