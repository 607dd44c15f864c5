"""Continuations of prompts in llama-server's own shape.

Pure: events in, objects out. Refuses to know HTTP and OpenAI's shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

from dure.chat.task import Content, Finished, GenerationOptions, PromptProgress
from dure.http.problems import Problem, openai_error
from dure.serve.dialect.answering import StreamObject
from dure.serve.dialect.logprobs import logprob_entries, probability_entries
from dure.serve.dialect.timings import LiveTimings, progress_of, timings_of
from dure.serve.openai.native_request import NativeParameters
from dure.serve.runner import TextEvent

__all__ = ["NativeAnswer", "NativePrompt", "generation_settings"]


def generation_settings(options: GenerationOptions, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return how an answer is generated, under llama-server's names."""
    limit = -1 if options.max_tokens is None else options.max_tokens
    sampling = msgspec.structs.asdict(options.sampling)
    bias = sampling.pop("logit_bias")
    seed = sampling["seed"]
    return {
        **sampling,
        "seed": -1 if seed is None else seed,
        "logit_bias": [{"id": token, "bias": max(b, -1e9)} for token, b in bias.items()],
        "n_predict": limit,
        "max_tokens": limit,
        "stop": list(options.stop),
        "ignore_eos": options.ignore_eos,
        "n_probs": options.n_logprobs or 0,
        "post_sampling_probs": options.post_sampling,
        "stream": bool(body.get("stream")),
        "grammar": body.get("grammar") or "",
        "timings_per_token": bool(body.get("timings_per_token")),
        "adaptive_target": -1.0,
        "adaptive_decay": 0.0,
        "lora": [{"id": n, "scale": scale} for n, scale in options.adapters or ()],
    }


@dataclass(frozen=True)
class NativePrompt:
    """A prompt as the answer repeats it."""

    n_tokens: int
    text: str


class NativeAnswer:
    """The answer to one request: a continuation of each prompt."""

    def __init__(
        self,
        request: NativeParameters,
        options: GenerationOptions,
        model: str,
        prompts: Sequence[NativePrompt],
    ) -> None:
        self._request, self._options, self._model = request, options, model
        self._prompts = prompts
        live = bool(request.timings_per_token)
        self._choices = [NativeChoice(prompt.n_tokens, options, live=live) for prompt in prompts]

    def feed(self, indexed: tuple[int, TextEvent]) -> list[StreamObject]:
        """Return the chunk of an event; the last chunk of each prompt has `stop`."""
        index, event = indexed
        choice = self._choices[index]
        choice.add(event)
        if isinstance(event, Finished):
            return [self._final(index, event, streamed=True)]
        if isinstance(event, Content) or self._request.return_progress:
            return [{**self._partial(index, event), **choice.live_timings()}]
        return []

    def alive(self) -> list[StreamObject]:
        """Return an empty chunk of a prompt whose continuation has not ended."""
        going = (i for i, choice in enumerate(self._choices) if choice.finished is None)
        return [self._empty(index) for index in islice(going, 1)]

    def end(self) -> list[StreamObject]:
        """Return nothing: the last chunks have all figures."""
        return []

    def value(self) -> list[dict[str, Any]] | dict[str, Any]:
        """Return the answer in one object, or a list of them if the request has a list of prompts."""
        answers = [
            self._final(index, choice.finished, streamed=False)
            for index, choice in enumerate(self._choices)
            if choice.finished is not None
        ]
        return answers if self._request.wants_list() else answers[0]

    def fail(self, problem: Problem) -> list[StreamObject]:
        """Return the error."""
        return [openai_error(problem)]

    def _final(self, index: int, finished: Finished, *, streamed: bool) -> dict[str, Any]:
        choice, request, timings = self._choices[index], self._request, finished.timings
        answer = {
            **choice.figures(index),
            "content": "" if streamed else choice.text,
            "tokens": choice.tokens if request.return_tokens and not streamed else [],
            "stop": True,
            "model": self._model,
            "generation_settings": generation_settings(self._options, request.model_dump()),
            "prompt": self._prompts[index].text,
            "has_new_line": "\n" in choice.text,
            **self._ending(finished),
            "tokens_cached": timings.prompt_tokens + timings.tokens,
            "timings": timings_of(timings),
        }
        if self._options.n_logprobs and not streamed:
            answer["completion_probabilities"] = choice.probabilities
        return _only(answer, request.response_fields)

    def _ending(self, finished: Finished) -> dict[str, Any]:
        kind = "limit" if finished.reason == "length" else "word" if finished.stop_text else "eos"
        limit = self._options.max_tokens
        cut = kind == "limit" and (limit is None or finished.timings.tokens < limit)
        return {"stop_type": kind, "stopping_word": finished.stop_text or "", "truncated": cut}

    def _partial(self, index: int, event: Content | PromptProgress) -> dict[str, Any]:
        chunk = self._empty(index)
        if isinstance(event, PromptProgress):
            return {**chunk, "prompt_progress": progress_of(event)}
        chunk |= {"content": event.text, "tokens": list(event.tokens)}
        if self._options.n_logprobs:
            chunk["completion_probabilities"] = _probabilities(event, self._options)
        return chunk

    def _empty(self, index: int) -> dict[str, Any]:
        figures = self._choices[index].figures(index)
        return {**figures, "content": "", "tokens": [], "stop": False}


class NativeChoice:
    """One prompt's continuation, collected. live: every chunk has its timings so far."""

    def __init__(self, n_prompt: int, options: GenerationOptions, *, live: bool) -> None:
        self._n_prompt, self._options = n_prompt, options
        self._live = LiveTimings() if live else None
        self._text: list[str] = []
        self.tokens: list[int] = []
        self.probabilities: list[dict[str, Any]] = []
        self.finished: Finished | None = None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._text)

    def add(self, event: TextEvent) -> None:
        """Take in an event."""
        if isinstance(event, Finished):
            self.finished = event
            return
        if self._live is not None:
            self._live.observe(event)
        if isinstance(event, Content):
            self._text.append(event.text)
            self.tokens += event.tokens
            self.probabilities += _probabilities(event, self._options)

    def live_timings(self) -> dict[str, Any]:
        """Return the timings so far as a field of a chunk, if they are wanted."""
        return {} if self._live is None else {"timings": self._live.timings()}

    def figures(self, index: int) -> dict[str, Any]:
        """Return what is in every chunk."""
        n = self.finished.timings.tokens if self.finished else len(self.tokens)
        return {
            "index": index,
            "id_slot": -1,
            "tokens_predicted": n,
            "tokens_evaluated": self._n_prompt,
        }


def _probabilities(event: Content, options: GenerationOptions) -> list[dict[str, Any]]:
    """Return the tokens' entries: logprobs, or what the samplers left as probabilities."""
    if options.post_sampling:
        return probability_entries(event.logprobs)
    return logprob_entries(event.logprobs, ids=True)


def _only(answer: dict[str, Any], fields: list[str] | None) -> dict[str, Any]:
    """Return the fields that were asked for, or all; `a/b` is field b of field a."""
    if not fields:
        return answer
    found = {}
    for name in fields:
        value: Any = answer
        for part in name.split("/"):
            value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
        if value is not _MISSING:
            found[name] = value
    return found


_MISSING = object()
