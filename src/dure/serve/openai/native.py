"""/completion: text that is continued, in llama-server's own shape.

Knows that shape. Refuses to know OpenAI's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from annotated_types import MaxLen
from fastapi import APIRouter, Request, Response

from dure.chat.task import Content, Finished, GenerationOptions, PromptProgress
from dure.errors import ParameterError
from dure.http.body import JsonRoute, examples
from dure.http.problems import json_response
from dure.http.sse import EventStream, opened, sse, while_connected
from dure.serve.openai.answers import NativeCompletion, documented
from dure.serve.openai.chat import failure_chunk
from dure.serve.openai.completions import MAX_ANSWERS
from dure.serve.openai.grammars import grammar_of
from dure.serve.openai.live import LiveTimings
from dure.serve.openai.parameters import GenerationParameters
from dure.serve.openai.prompts import PromptField, Tokenizer, as_prompts
from dure.serve.openai.usage import logprob_entries, progress_of, timings_of
from dure.serve.runner import TextEvent, run_texts
from dure.serve.runs import Merged
from dure.serve.state import ServerState, State, owner_of

__all__ = ["generation_settings", "router"]

router = APIRouter(route_class=JsonRoute, tags=["llama-server"])


class NativeRequest(GenerationParameters):
    """The body of /completion. response_fields: only these of the answer, parts named with `/`."""

    model_config = examples(
        {"prompt": "Once upon a time", "n_predict": 32},
        {"prompt": "The answer is", "n_predict": 16, "grammar": 'root ::= " yes" | " no"'},
        {"prompt": ["The bell", [1, 2, "river"]], "n_predict": 16, "n_probs": 3, "stream": True},
    )

    prompt: PromptField
    return_tokens: bool | None = None
    response_fields: Annotated[list[str], MaxLen(256)] | None = None
    adaptive_target: Literal[-1, -1.0] | None = None  # type: ignore[valid-type]


@router.post("/completion", **documented(NativeCompletion | list[NativeCompletion], stream=True))
@router.post("/completions", **documented(NativeCompletion | list[NativeCompletion], alias=True))
async def create_native_completion(body: NativeRequest, request: Request, state: State) -> Response:
    """Continue one or more texts, as llama-server does."""
    options = body.options(state, owner_of(request))
    prompts = await Tokenizer(state, "prompt").many(body.prompt)
    if len(prompts) > MAX_ANSWERS:
        raise ParameterError("prompt", f"more than {MAX_ANSWERS} prompts at once: give fewer")
    grammar = await grammar_of(state, body.grammar, body.json_schema)
    events = run_texts(state, prompts, options, grammar)
    answer = _Answer(state, body, options, prompts)
    if not body.stream:
        return await while_connected(request, answer.whole(events))
    chunks = await opened(answer.chunks(events), request)
    if chunks is None:
        return Response(status_code=499)
    return EventStream(chunks, failure_chunk, keep_alive_s=state.keep_alive_s)


def generation_settings(options: GenerationOptions, body: Mapping[str, Any]) -> dict[str, Any]:
    """How an answer is generated, under llama-server's names."""
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
        "stream": bool(body.get("stream")),
        "grammar": body.get("grammar") or "",
        "timings_per_token": bool(body.get("timings_per_token")),
        "adaptive_target": -1.0,
        "adaptive_decay": 0.0,
        "lora": [],
    }


class _Answer:
    """The objects that answer one request."""

    def __init__(
        self,
        state: ServerState,
        body: NativeRequest,
        options: GenerationOptions,
        prompts: Sequence[list[int]],
    ) -> None:
        self._state, self._body, self._options, self._prompts = state, body, options, prompts

    async def whole(self, events: Merged[TextEvent]) -> Response:
        """The answer in one object, or a list of them where there is a list of prompts."""
        choices = [_Choice(len(prompt)) for prompt in self._prompts]
        async with aclosing(events):
            async for index, event in events:
                choices[index].add(event)
        answers = [self._final(index, choice) for index, choice in enumerate(choices)]
        return json_response(answers if self._is_list() else answers[0])

    def _is_list(self) -> bool:
        return isinstance(self._body.prompt, list) and as_prompts(self._body.prompt) != [
            self._body.prompt
        ]

    def _final(self, index: int, choice: _Choice, *, streamed: bool = False) -> dict[str, Any]:
        finished = choice.finished
        assert finished is not None
        answer = {
            **choice.figures(index),
            "content": "" if streamed else choice.text,
            "tokens": choice.tokens if self._body.return_tokens and not streamed else [],
            "stop": True,
            "model": self._state.model,
            "generation_settings": generation_settings(self._options, self._body.model_dump()),
            "prompt": self._prompt_text(index),
            "has_new_line": "\n" in choice.text,
            **self._end(finished),
            "tokens_cached": finished.timings.prompt_tokens + finished.timings.tokens,
            "timings": timings_of(finished.timings),
        }
        if self._options.n_logprobs and not streamed:
            answer["completion_probabilities"] = choice.probabilities
        return _only(answer, self._body.response_fields)

    def _end(self, finished: Finished) -> dict[str, Any]:
        kind = "limit" if finished.reason == "length" else "word" if finished.stop_text else "eos"
        limit = self._options.max_tokens
        cut = kind == "limit" and (limit is None or finished.timings.tokens < limit)
        return {"stop_type": kind, "stopping_word": finished.stop_text or "", "truncated": cut}

    def _prompt_text(self, index: int) -> str:
        pieces = (self._state.piece(token, special=True) for token in self._prompts[index])
        return b"".join(pieces).decode("utf-8", "replace")

    async def chunks(self, events: Merged[TextEvent]) -> AsyncGenerator[bytes, None]:
        """The answer in chunks; the last of each prompt has `stop`."""
        choices = [_Choice(len(prompt)) for prompt in self._prompts]
        live = [LiveTimings() for _ in choices] if self._body.timings_per_token else None
        async with aclosing(events):
            async for index, event in events:
                choice = choices[index]
                choice.add(event)
                if isinstance(event, Finished):
                    yield sse(self._final(index, choice, streamed=True))
                    continue
                chunk = self._partial(index, choice, event)
                if live is not None:
                    live[index].see(event)
                    chunk["timings"] = live[index].timings()
                if isinstance(event, Content) or self._body.return_progress:
                    yield sse(chunk)

    def _partial(
        self, index: int, choice: _Choice, event: Content | PromptProgress
    ) -> dict[str, Any]:
        chunk = {**choice.figures(index), "content": "", "tokens": [], "stop": False}
        if isinstance(event, PromptProgress):
            return {**chunk, "prompt_progress": progress_of(event)}
        chunk |= {"content": event.text, "tokens": list(event.tokens)}
        if self._options.n_logprobs:
            chunk["completion_probabilities"] = logprob_entries(event.logprobs, ids=True)
        return chunk


class _Choice:
    """One prompt's continuation, collected."""

    def __init__(self, n_prompt: int) -> None:
        self._n_prompt = n_prompt
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
        if isinstance(event, Content):
            self._text.append(event.text)
            self.tokens += event.tokens
            self.probabilities += logprob_entries(event.logprobs, ids=True)
        elif isinstance(event, Finished):
            self.finished = event

    def figures(self, index: int) -> dict[str, Any]:
        """What is in every chunk."""
        n = self.finished.timings.tokens if self.finished else len(self.tokens)
        return {
            "index": index,
            "id_slot": -1,
            "tokens_predicted": n,
            "tokens_evaluated": self._n_prompt,
        }


def _only(answer: dict[str, Any], fields: list[str] | None) -> dict[str, Any]:
    """The fields that were asked for, all where none are; `a/b` is field b of field a."""
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
