"""The routes of Ollama's API.

Knows HTTP and lines of JSON. Refuses to know what a request means and how an answer is written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from dure.chat.task import ChatEvent, GenerationOptions
from dure.http.body import JsonRoute
from dure.http.problems import NotFoundError, Problem, json_response, problem_of
from dure.http.sse import EventStream, opened, while_connected
from dure.serve.ollama import models
from dure.serve.ollama.answer import Answer, chatted, generated
from dure.serve.ollama.document import (
    Chatted,
    Described,
    Embedded,
    Embedding,
    Generated,
    Models,
    Version,
    documented,
)
from dure.serve.ollama.embeddings import embedded, normalized
from dure.serve.ollama.errors import ollama_error
from dure.serve.ollama.mapping import (
    check_keep_alive,
    check_raw,
    options_of,
    schema_of,
    task_of_chat,
    task_of_prompt,
)
from dure.serve.ollama.requests import (
    AnswerRequest,
    ChatRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    ShowRequest,
)
from dure.serve.openai.grammars import grammar_of
from dure.serve.runner import TextEvent, run_chat, run_text
from dure.serve.runs import Run
from dure.serve.state import ServerState, State, owner_of

__all__ = ["OLLAMA_VERSION", "router"]

OLLAMA_VERSION = "0.12.6"  # whose API this is: clients ask for it to learn what they may send
_NDJSON = "application/x-ndjson"
_Events = Run[ChatEvent] | Run[TextEvent]
_encode = msgspec.json.Encoder().encode


class _Route(JsonRoute):
    @staticmethod
    def error_body(problem: Problem) -> dict[str, Any]:
        return dict(ollama_error(problem))


def router() -> APIRouter:
    """The routes of Ollama's API."""
    routes = APIRouter(prefix="/api", route_class=_Route, tags=["Ollama"])
    routes.post("/chat", **documented(Chatted, stream=True))(chat)
    routes.post("/generate", **documented(Generated, stream=True))(generate)
    routes.post("/embed", **documented(Embedded))(embed)
    routes.post("/embeddings", **documented(Embedding))(embeddings)
    routes.post("/show", **documented(Described))(show)
    routes.get("/tags", **documented(Models))(tags)
    routes.get("/ps", **documented(Models))(ps)
    routes.get("/version", **documented(Version))(version)
    return routes


async def chat(body: ChatRequest, request: Request, state: State) -> Response:
    """Continue a conversation; streamed unless `stream` is false."""
    options = _options(body, request, state)
    answer = Answer(state.model, chatted)
    if not body.messages:
        return json_response(answer.loaded())
    prepared = await state.prepare(task_of_chat(body))
    return await _answered(run_chat(state, prepared, options), answer, body, request, state)


async def generate(body: GenerateRequest, request: Request, state: State) -> Response:
    """Answer a prompt, or continue it where it is raw; streamed unless `stream` is false."""
    options = _options(body, request, state)
    answer = Answer(state.model, generated)
    if not body.prompt:
        task_of_prompt(body)
        return json_response(answer.loaded())
    run: _Events
    if body.raw:
        check_raw(body)
        prompt = await state.tokenize(body.prompt, special=True)
        run = run_text(state, prompt, options, await grammar_of(state, None, schema_of(body)))
    else:
        run = run_chat(state, await state.prepare(task_of_prompt(body)), options)
    return await _answered(run, answer, body, request, state)


def _options(body: AnswerRequest, request: Request, state: ServerState) -> GenerationOptions:
    state.ready()
    return options_of(body, state.sampling, state.engine.info.n_ctx, owner_of(request))


async def _answered(
    run: _Events, answer: Answer, body: AnswerRequest, request: Request, state: ServerState
) -> Response:
    if body.stream is False:
        return await while_connected(request, _whole(run, answer))
    chunks = await opened(_lines(run, answer), request)
    if chunks is None:
        return Response(status_code=499)
    # A silent stream stays silent: every line is an answer's, and clients parse empty ones too.
    return EventStream(
        chunks, _failure, keep_alive_s=state.keep_alive_s, comment=b"", media_type=_NDJSON
    )


async def _whole(run: _Events, answer: Answer) -> Response:
    async with aclosing(run):
        async for event in run:
            answer.feed(event)
    return json_response(answer.whole())


async def _lines(run: _Events, answer: Answer) -> AsyncGenerator[bytes, None]:
    async with aclosing(run):
        async for event in run:
            if told := answer.feed(event):
                yield b"".join(_encode(line) + b"\n" for line in told)


def _failure(error: Exception) -> bytes:
    return _encode(ollama_error(problem_of(error))) + b"\n"


async def embed(body: EmbedRequest, request: Request, state: State) -> Response:
    """Vectors of length 1 of texts; `dimensions` keeps the first of their numbers."""
    started_s = time.perf_counter()
    check_keep_alive(body.keep_alive)
    texts = [body.input] if isinstance(body.input, str) else body.input
    work = embedded(state, texts, body.options, truncate=body.truncate is not False)
    found = await while_connected(request, work)
    if isinstance(found, Response):
        return found
    vectors, n_tokens = found
    answer = {
        "model": state.model,
        "embeddings": [normalized(vector, body.dimensions) for vector in vectors],
        "total_duration": round((time.perf_counter() - started_s) * 1e9),
        "load_duration": 0,
        "prompt_eval_count": n_tokens,
    }
    return json_response(answer)


async def embeddings(body: EmbeddingsRequest, request: Request, state: State) -> Response:
    """The vector of one text, of the length that the model gives it."""
    check_keep_alive(body.keep_alive)
    texts = [body.prompt] if body.prompt else []
    found = await while_connected(request, embedded(state, texts, body.options, truncate=True))
    if isinstance(found, Response):
        return found
    vectors, _ = found
    return json_response({"embedding": vectors[0] if vectors else []})


async def show(body: ShowRequest, state: State) -> Response:
    """What is known of the model."""
    state.ready()
    name = (body.model or body.name or "").removesuffix(":latest")
    if name not in (state.model, state.model.removesuffix(":latest"), *state.aliases):
        raise NotFoundError(f"model {name!r} not found: this server has {state.model!r}")
    verbose = bool(body.verbose)
    found = await asyncio.to_thread(models.described, state.engine.info, verbose=verbose)
    return json_response(found)


async def tags(state: State) -> Response:
    """The models there are: the one that is served."""
    state.ready()
    return json_response({"models": [models.listed(state.engine.info, state.model)]})


async def ps(state: State) -> Response:
    """The models that are loaded: the one that is served."""
    if state.engine.state != "ready":
        return json_response({"models": []})
    return json_response({"models": [models.running(state.engine.info, state.model)]})


async def version() -> Response:
    """The release of Ollama whose API this is."""
    return json_response({"version": OLLAMA_VERSION})
