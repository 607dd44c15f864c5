"""Continuations of prompts in OpenAI's API, as chunks of a stream and as one object.

Pure: events in, objects out. Refuses to know HTTP and conversations.
"""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Sequence
from itertools import islice
from typing import Any

from dure.chat.task import Content, Finished, PromptProgress, PromptScores, TokenLogprob
from dure.http.problems import Problem, openai_error
from dure.serve.dialect.answering import StreamObject
from dure.serve.dialect.logprobs import LOWEST, finite
from dure.serve.dialect.timings import LiveTimings, progress_of, timings_of
from dure.serve.openai.completion_request import CompletionRequest
from dure.serve.openai.usage import usage_of
from dure.serve.runner import ScoredTextEvent

__all__ = ["CompletionAnswer", "Echo"]


class Echo:
    """The prompt that an answer begins with; without one it is empty.

    pieces: the bytes of its tokens, as they are shown. first: how the first is named.
    """

    def __init__(self, pieces: Sequence[bytes] = (), first: str = "") -> None:
        self.n_tokens, self.first = len(pieces), first
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.offsets: list[int] = []
        self.text = ""
        for piece in pieces:
            self.offsets.append(len(self.text))
            self.text += decoder.decode(piece)
        self.text += decoder.decode(b"", final=True)

    def columns(self, scores: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Return columns of its tokens. scores: of all but the first, which nothing comes before."""
        columns = _columns(scores, 0)
        return {
            "tokens": [self.first, *columns["tokens"]],
            "token_logprobs": [None, *columns["token_logprobs"]],
            "top_logprobs": [None, *columns["top_logprobs"]],
            "text_offset": self.offsets,
        }


class CompletionAnswer:
    """The answer to one request: n choices of each prompt, one prompt's after the other.

    echoes: what the choices of each prompt begin with. prompt_text: the first prompt's.
    """

    def __init__(
        self,
        request: CompletionRequest,
        model: str,
        fingerprint: str,
        echoes: Sequence[Echo],
        prompt_text: str,
    ) -> None:
        self._request, self._n_prompts, self._prompt_text = request, len(echoes), prompt_text
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        n = request.n_answers()
        self._choices = [
            TextChoiceWriter(prompt * n + i, request, echo)
            for prompt, echo in enumerate(echoes)
            for i in range(n)
        ]

    def feed(self, indexed: tuple[int, ScoredTextEvent]) -> list[StreamObject]:
        """Return the chunks of an event of one choice."""
        index, event = indexed
        return [{**self._head, **fields} for fields in self._choices[index].feed(event)]

    def alive(self) -> list[StreamObject]:
        """Return an empty chunk of a choice that has not ended."""
        going = (choice for choice in self._choices if choice.finished is None)
        return [{**self._head, **choice.alive()} for choice in islice(going, 1)]

    def end(self) -> list[StreamObject]:
        """Return the chunk with the usage, if it was asked for."""
        options = self._request.stream_options
        if options is None or not options.include_usage:
            return []
        return [{**self._head, "choices": [], **self._figures()}]

    def value(self) -> dict[str, Any]:
        """Return the answer in one object."""
        choices = [choice.value(index) for index, choice in enumerate(self._likeliest())]
        verbose = {"__verbose": {"prompt": self._prompt_text}} if self._request.verbose else {}
        return {**self._head, "choices": choices, **self._figures(), **verbose}

    def fail(self, problem: Problem) -> list[StreamObject]:
        """Return the error."""
        return [openai_error(problem)]

    def _figures(self) -> dict[str, Any]:
        finished = [choice.finished for choice in self._choices if choice.finished is not None]
        usage = usage_of(finished, self._n_prompts)
        return {"usage": usage, "timings": timings_of(finished[0].timings)}

    def _likeliest(self) -> list[TextChoiceWriter]:
        """Of each prompt's choices the n whose tokens are likeliest on average."""
        n, made = self._request.n or 1, self._request.n_answers()
        if made == n:
            return self._choices
        groups = [self._choices[at : at + made] for at in range(0, len(self._choices), made)]
        return [
            choice
            for group in groups
            for choice in sorted(group, key=TextChoiceWriter.mean_logprob, reverse=True)[:n]
        ]


class TextChoiceWriter:
    """One choice while it is generated: its chunks, and what they add up to."""

    def __init__(self, index: int, request: CompletionRequest, echo: Echo) -> None:
        self._index, self._echo = index, echo
        self._with_logprobs = request.logprobs is not None
        self._with_progress = bool(request.return_progress)
        self._live = LiveTimings() if request.timings_per_token else None
        self._n_characters = 0
        self._has_begun = not echo.n_tokens
        self._n_unscored = echo.n_tokens - 1 if self._with_logprobs else 0
        self._text: list[str] = []
        self._scores: list[TokenLogprob] = []
        self._logprobs: list[TokenLogprob] = []
        self.finished: Finished | None = None

    def feed(self, event: ScoredTextEvent) -> list[dict[str, Any]]:
        """Take in an event, and return the fields of its chunks; the first with text has the echo."""
        if isinstance(event, PromptScores):
            self._scores += event.logprobs
            return self._begun()
        if self._live is not None:
            self._live.observe(event)
        first = self._begun()
        match event:
            case PromptProgress():
                return [*first, self._progressed(event)] if self._with_progress else first
            case Finished():
                self.finished = event
                return [*first, self._finish(event)]
            case Content(text, logprobs):
                self._text.append(text)
                self._logprobs += logprobs
                return [*first, self._more(text, logprobs)]

    def _begun(self) -> list[dict[str, Any]]:
        """Return the chunk with the echo, once all of its logprobs are there, if they are wanted."""
        if self._has_begun or len(self._scores) < self._n_unscored:
            return []
        self._has_begun = True
        columns = self._echo.columns(self._scores) if self._with_logprobs else None
        self._n_characters = len(self._echo.text)
        return [self._with_timings(self._fields(self._echo.text, columns, None))]

    def alive(self) -> dict[str, Any]:
        """Return the fields of a chunk that adds nothing."""
        return self._fields("", None, None)

    def value(self, index: int) -> dict[str, Any]:
        """Return the choice as OpenAI has it."""
        assert self.finished is not None
        logprobs = self._all_columns() if self._with_logprobs else None
        return {
            "text": self._echo.text + "".join(self._text),
            "index": index,
            "logprobs": logprobs,
            "finish_reason": self.finished.reason,
        }

    def _all_columns(self) -> dict[str, Any]:
        answer = _columns(self._logprobs, len(self._echo.text))
        if not self._echo.n_tokens:
            return answer
        echo = self._echo.columns(self._scores)
        return {name: [*values, *answer[name]] for name, values in echo.items()}

    def mean_logprob(self) -> float:
        """Return the mean of the tokens' logprobs."""
        values = [finite(one.logprob) for one in self._logprobs]
        return sum(values) / len(values) if values else LOWEST

    def _more(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
        columns = _columns(logprobs, self._n_characters) if self._with_logprobs else None
        self._n_characters += len(text)
        return self._with_timings(self._fields(text, columns, None))

    def _with_timings(self, fields: dict[str, Any]) -> dict[str, Any]:
        return fields if self._live is None else {**fields, "timings": self._live.timings()}

    def _progressed(self, event: PromptProgress) -> dict[str, Any]:
        return {**self._fields("", None, None), "prompt_progress": progress_of(event)}

    def _finish(self, event: Finished) -> dict[str, Any]:
        return {**self._fields("", None, event.reason), "timings": timings_of(event.timings)}

    def _fields(self, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
        choice = {
            "text": text,
            "index": self._index,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        return {"choices": [choice]}


def _columns(logprobs: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """Return columns of tokens, as completions have them; offsets count the answer's characters."""
    offsets = []
    for one in logprobs:
        offsets.append(offset)
        offset += len(one.text)
    return {
        "tokens": [one.text for one in logprobs],
        "token_logprobs": [finite(one.logprob) for one in logprobs],
        "top_logprobs": [_by_text(one.top) for one in logprobs],
        "text_offset": offsets,
    }


def _by_text(tops: Sequence[TokenLogprob]) -> dict[str, float]:
    """Return tokens' logprobs by text; of tokens with the same text the likeliest counts."""
    found: dict[str, float] = {}
    for top in tops:
        found.setdefault(top.text, finite(top.logprob))
    return found
