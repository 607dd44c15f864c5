"""Generates answers: a prompt to chat events, of which every dialect's stream is made.

Knows the engine's requests, how an answer ends, and when the engine's work must end.
Refuses to know HTTP, how text is parsed, and how events are written.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from typing import cast

from dure.chat.answer_reader import AnswerReader
from dure.chat.format import PreparedChat
from dure.chat.reading import TextTools, broken_promise
from dure.chat.task import (
    ChatEvent,
    Content,
    Finished,
    GenerationOptions,
    PromptProgress,
    PromptScores,
)
from dure.errors import EngineError, revived
from dure.generate.request import (
    Done,
    Event,
    Failed,
    Grammar,
    PrefillProgress,
    PromptLogprobs,
    Request,
    Timings,
    Token,
)
from dure.http.access_log import current_record
from dure.http.unused_fields import note_unused
from dure.isolation import Isolation
from dure.serve.engine import TokenStream
from dure.serve.runs import Merged, Run
from dure.serve.served_model import ServedModel

__all__ = [
    "ScoredTextEvent",
    "TextEvent",
    "run_chat",
    "run_chats",
    "run_scored_texts",
    "run_text",
    "run_texts",
]

TextEvent = Content | PromptProgress | Finished
ScoredTextEvent = TextEvent | PromptScores
_Event = ChatEvent | PromptScores
_UNFINISHED = EngineError("the engine ended without finishing the answer", "ask again")


def run_chat(
    model: ServedModel,
    prepared: PreparedChat,
    options: GenerationOptions,
    *,
    index: int = 0,
    group: str = "",
) -> Run[ChatEvent]:
    """Begin an answer to a conversation. index: which of n choices; each has a seed of its own.

    group: of all n, see `Request`.
    Raises ContextError, BusyError and NotReadyError at once, so before anything is answered.
    Its events end with Finished; a DureError is raised among them if the engine fails.
    """
    model.check_ready()
    options = _with_adapters(options, model)
    request = options.request(prepared.prompt, prepared.grammar, index=index, group=group)
    request.return_points = prepared.return_points
    stream = model.engine.submit(request)
    reader = AnswerReader.of_chat(model.piece, prepared, options)
    events = _EventTranslator(request, reader, model.texts).events(stream)
    return Run(stream, events)  # type: ignore[arg-type]  # its prompt gets no scores


def run_text(
    model: ServedModel,
    prompt: list[int],
    options: GenerationOptions,
    grammar: Grammar | None = None,
    *,
    index: int = 0,
    group: str = "",
    special: bool = False,
) -> Run[TextEvent]:
    """Begin the continuation of a prompt, as `run_chat`. special: show special tokens by name."""
    model.check_ready()
    options = _with_adapters(options, model)
    request = options.request(prompt, grammar, index=index, group=group)
    stream = model.engine.submit(request)
    reader = AnswerReader.of_text(model.piece, options, special=special)
    events = _EventTranslator(request, reader, model.texts).events(stream)
    return Run(stream, events)  # type: ignore[arg-type]  # plain text is content only


def _with_adapters(options: GenerationOptions, model: ServedModel) -> GenerationOptions:
    """Return the options with the model's adapters, if they name none."""
    if options.adapters is not None:
        return options
    return replace(options, adapters=model.adapters.active)


def run_chats(
    model: ServedModel, prepared: PreparedChat, options: GenerationOptions, n: int
) -> Merged[ChatEvent]:
    """Begin n answers to one conversation; raises as `run_chat`, and then none has begun."""

    group = uuid.uuid4().hex

    def begin(index: int) -> Run[ChatEvent]:
        return run_chat(model, prepared, options, index=index, group=group)

    return Merged(begin, n, model.engine.info.n_sequences)


def run_texts(
    model: ServedModel,
    prompts: Sequence[list[int]],
    options: GenerationOptions,
    grammar: Grammar | None = None,
    n: int = 1,
) -> Merged[TextEvent]:
    """Begin n continuations of every prompt: choice p * n + i is the i-th of prompt p."""

    group = uuid.uuid4().hex

    def begin(at: int) -> Run[TextEvent]:
        return run_text(model, prompts[at // n], options, grammar, index=at % n, group=group)

    return Merged(begin, n * len(prompts), model.engine.info.n_sequences)


def run_scored_texts(
    model: ServedModel,
    prompts: Sequence[list[int]],
    options: GenerationOptions,
    grammar: Grammar | None = None,
    n: int = 1,
) -> Merged[ScoredTextEvent]:
    """Begin continuations as `run_texts`, of prompts whose logprobs are asked for too."""
    return cast(Merged[ScoredTextEvent], run_texts(model, prompts, options, grammar, n))


class _EventTranslator:
    """Turns the engine's events of one answer into chat events."""

    def __init__(self, request: Request, reader: AnswerReader, texts: Isolation[TextTools]) -> None:
        self._request, self._reader, self._texts = request, reader, texts

    async def events(self, stream: TokenStream) -> AsyncGenerator[_Event, None]:
        try:
            async for event in stream:
                for one in self._read(event, stream):
                    if isinstance(one, Finished):
                        await self._check(one)
                    yield one
                if isinstance(event, Done | Failed):
                    return
            for one in self._failed(Failed(self._request.id, _UNFINISHED.record())):
                yield one
        finally:
            stream.cancel()

    def _read(self, event: Event, stream: TokenStream) -> Iterator[_Event]:
        if isinstance(event, Token) and self._reader.stop_text is None:
            yield from self._reader.feed(event)
            if self._reader.stop_text is not None:
                stream.cancel()
        elif isinstance(event, PrefillProgress):
            yield PromptProgress(event.total, event.cached, event.processed, event.elapsed_s)
        elif isinstance(event, PromptLogprobs):
            yield self._reader.prompt_scores(self._request.prompt, event)
        elif isinstance(event, Done):
            yield from self._reader.end(event)
        elif isinstance(event, Failed):
            yield from self._failed(event)

    def _failed(self, event: Failed) -> Iterator[ChatEvent]:
        """Raise the error; but an answer that has met a stop string is complete, except for its times."""
        if self._reader.stop_text is None:
            raise revived(event.error)
        request = self._request
        timings = Timings(prompt_tokens=len(request.prompt), tokens=self._reader.n_tokens)
        yield from self._reader.end(Done(request.id, "cancelled", timings))

    async def _check(self, end: Finished) -> None:
        """Raise EngineError if a complete answer does not follow a strict schema; note others."""
        if end.reason == "length" or end.stop_text is not None:
            return
        for promise in self._reader.promises():
            complaint = await self._texts.called(broken_promise, promise, is_long=True)
            if complaint is None:
                continue
            if promise.must:
                raise EngineError(complaint, "ask again")
            note_unused(promise.rule)
            if record := current_record.get():
                record.extra["broken_schema"] = promise.rule
