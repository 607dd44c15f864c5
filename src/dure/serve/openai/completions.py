"""/v1/completions: text that is continued, streamed or whole.

Knows OpenAI's objects of text completions. Refuses to know conversations.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from fastapi import APIRouter, Request, Response

from dure.chat.task import Content, Finished, PromptProgress, TokenLogprob
from dure.errors import ParameterError
from dure.http.body import JsonRoute, examples
from dure.http.problems import json_response
from dure.http.sse import EventStream, opened, sse, while_connected
from dure.serve.openai.answers import Completion, documented
from dure.serve.openai.chat import failure_chunk
from dure.serve.openai.grammars import grammar_of
from dure.serve.openai.infill import with_suffix
from dure.serve.openai.live import LiveTimings
from dure.serve.openai.parameters import GenerationParameters, StreamOptions
from dure.serve.openai.prompts import PromptField, Tokenizer
from dure.serve.openai.usage import LOWEST, progress_of, timings_of, usage_of
from dure.serve.runner import TextEvent, run_texts
from dure.serve.runs import Merged
from dure.serve.state import ServerState, State, owner_of

__all__ = ["router"]

MAX_ANSWERS = 256  # of one request

router = APIRouter(route_class=JsonRoute, tags=["completions"])


class CompletionRequest(GenerationParameters):
    """The body of /v1/completions."""

    model_config = examples(
        {"prompt": "Once upon a time", "max_tokens": 32},
        {"prompt": ["The bell", "The river"], "max_tokens": 16, "n": 2, "seed": 1, "stream": True},
        {"prompt": [1, 2, 3], "max_tokens": 16, "echo": True},
    )

    prompt: PromptField
    suffix: str | None = None
    echo: bool | None = None
    n: Annotated[int, Ge(1), Le(128)] | None = None
    best_of: Annotated[int, Ge(1), Le(128)] | None = None
    logprobs: Annotated[int, Ge(0), Le(20)] | None = None
    stream_options: StreamOptions | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None

    def n_answers(self) -> int:
        """How many answers are made of each prompt. Raises ParameterError."""
        n, best_of = self.n or 1, self.best_of or self.n or 1
        if best_of < n:
            raise ParameterError("best_of", f"best_of {best_of} is less than n {n}")
        if best_of > n and self.stream:
            raise ParameterError("best_of", "best_of cannot be streamed: leave out one of both")
        return best_of

    def n_logprobs(self) -> int | None:
        """How many alternatives come with each token; 0 where only best_of needs the tokens' own."""
        if self.echo and self.logprobs is not None:
            raise ParameterError("logprobs", "logprobs of an echoed prompt are not computed")
        if self.logprobs is None and self.n_answers() > (self.n or 1):
            return 0
        return self.logprobs


@router.post("/v1/completions", **documented(Completion, stream=True))
async def create_completion(body: CompletionRequest, request: Request, state: State) -> Response:
    """Continue one or more texts."""
    options = body.options(state, owner_of(request), body.n_logprobs())
    prompts = await Tokenizer(state, "prompt").many(body.prompt)
    if len(prompts) * body.n_answers() > MAX_ANSWERS:
        raise ParameterError("n", f"more than {MAX_ANSWERS} answers at once: ask for fewer")
    echoes = [_text(state, prompt) if body.echo else "" for prompt in prompts]
    if body.suffix:
        prompts = [await with_suffix(state, prompt, body.suffix) for prompt in prompts]
    grammar = await grammar_of(state, body.grammar, body.json_schema)
    events = run_texts(state, prompts, options, grammar, body.n_answers())
    answer = _Answer(state, body, prompts, echoes)
    if not body.stream:
        return await while_connected(request, answer.whole(events))
    chunks = await opened(answer.chunks(events), request)
    if chunks is None:
        return Response(status_code=499)
    return EventStream(chunks, failure_chunk, keep_alive_s=state.keep_alive_s)


def _text(state: ServerState, prompt: Sequence[int]) -> str:
    return b"".join(state.piece(token, special=False) for token in prompt).decode(
        "utf-8", "replace"
    )


class _Answer:
    """The objects that answer one request."""

    def __init__(
        self,
        state: ServerState,
        body: CompletionRequest,
        prompts: Sequence[list[int]],
        echoes: Sequence[str],
    ) -> None:
        self._state, self._body, self._prompts, self._echoes = state, body, prompts, echoes
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": state.model,
            "system_fingerprint": state.fingerprint,
        }

    async def whole(self, events: Merged[TextEvent]) -> Response:
        """The answer in one object."""
        n = self._body.n_answers()
        choices = [_Choice(self._echoes[at // n]) for at in range(n * len(self._prompts))]
        async with aclosing(events):
            async for index, event in events:
                choices[index].add(event)
        finished = [choice.finished for choice in choices if choice.finished is not None]
        answer = {
            **self._head,
            "choices": [
                choice.object(index, self._body.logprobs)
                for index, choice in enumerate(self._best(choices))
            ],
            "usage": usage_of(finished, len(self._prompts)),
            "timings": timings_of(finished[0].timings),
        }
        if self._body.verbose:
            answer["__verbose"] = {"prompt": _text(self._state, self._prompts[0])}
        return json_response(answer)

    def _best(self, choices: list[_Choice]) -> list[_Choice]:
        """Of each prompt's choices the n that are likeliest, a token."""
        n, made = self._body.n or 1, self._body.n_answers()
        if made == n:
            return choices
        groups = [choices[at : at + made] for at in range(0, len(choices), made)]
        return [
            choice
            for group in groups
            for choice in sorted(group, key=_Choice.mean_logprob, reverse=True)[:n]
        ]

    async def chunks(self, events: Merged[TextEvent]) -> AsyncGenerator[bytes, None]:
        """The answer in chunks, and usage where it is asked for."""
        n = self._body.n_answers()
        writers = [
            _Writer(at, self._body, self._head, self._echoes[at // n])
            for at in range(n * len(self._prompts))
        ]
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
            last = {
                "usage": usage_of(ends, len(self._prompts)),
                "timings": timings_of(ends[0].timings),
            }
            yield sse({**self._head, "choices": [], **last})
        yield b"data: [DONE]\n\n"


class _Writer:
    """The chunks of one choice."""

    def __init__(
        self, index: int, body: CompletionRequest, head: dict[str, Any], echo: str
    ) -> None:
        self._index, self._head, self._echo = index, head, echo
        self._logprobs = body.logprobs
        self._progress = bool(body.return_progress)
        self._live = LiveTimings() if body.timings_per_token else None
        self._offset = 0

    def write(self, event: TextEvent) -> list[bytes]:
        """The chunks of an event."""
        if self._live is not None:
            self._live.see(event)
        first = [self._more(self._echo)] if self._echo else []
        self._echo = ""
        if isinstance(event, PromptProgress):
            if not self._progress:
                return first
            chunk = self._chunk("", None, None)
            return [*first, sse({**chunk, "prompt_progress": progress_of(event)})]
        if isinstance(event, Finished):
            chunk = self._chunk("", None, event.reason)
            return [*first, sse({**chunk, "timings": timings_of(event.timings)})]
        return [*first, self._more(event.text, event.logprobs)]

    def _more(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        entries = None
        if self._logprobs is not None:
            entries = _legacy_logprobs(logprobs, self._offset)
        self._offset += len(text)
        chunk = self._chunk(text, entries, None)
        if self._live is not None:
            chunk["timings"] = self._live.timings()
        return sse(chunk)

    def _chunk(self, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
        choice = {
            "text": text,
            "index": self._index,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        return {**self._head, "choices": [choice]}


class _Choice:
    """One choice, collected."""

    def __init__(self, echo: str) -> None:
        self._text = [echo]
        self._logprobs: list[TokenLogprob] = []
        self.finished: Finished | None = None

    def add(self, event: TextEvent) -> None:
        """Take in an event."""
        if isinstance(event, Content):
            self._text.append(event.text)
            self._logprobs += event.logprobs
        elif isinstance(event, Finished):
            self.finished = event

    def mean_logprob(self) -> float:
        """How likely a token was, on average."""
        values = [_finite(one.logprob) for one in self._logprobs]
        return sum(values) / len(values) if values else LOWEST

    def object(self, index: int, n_logprobs: int | None) -> dict[str, Any]:
        """The choice as OpenAI has it."""
        assert self.finished is not None
        logprobs = _legacy_logprobs(self._logprobs, 0) if n_logprobs is not None else None
        return {
            "text": "".join(self._text),
            "index": index,
            "logprobs": logprobs,
            "finish_reason": self.finished.reason,
        }


def _legacy_logprobs(logprobs: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """Columns of tokens, as completions have them; offsets count characters of the answer."""
    offsets = []
    for one in logprobs:
        offsets.append(offset)
        offset += len(one.text)
    return {
        "tokens": [one.text for one in logprobs],
        "token_logprobs": [_finite(one.logprob) for one in logprobs],
        "top_logprobs": [{top.text: _finite(top.logprob) for top in one.top} for one in logprobs],
        "text_offset": offsets,
    }


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else LOWEST
