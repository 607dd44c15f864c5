"""The routes of Ollama's API.

Knows HTTP and lines of JSON. Refuses to know what a request means and how an answer is written.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from dure.chat.task import ChatEvent, GenerationOptions
from dure.http.body import JsonRoute
from dure.http.ollama_release import OLLAMA_VERSION
from dure.http.problems import NotFoundError, Problem, json_response
from dure.http.sse import while_connected
from dure.serve.dialect.answering import StreamFraming, StreamObject, send_answer
from dure.serve.dialect.text_grammar import grammar_of
from dure.serve.ollama import models
from dure.serve.ollama.answer import OllamaAnswer, chatted, generated
from dure.serve.ollama.document import (
    OLLAMA_STYLE,
    Chatted,
    Described,
    Generated,
    Models,
    OllamaEmbedding,
    OllamaEmbeddings,
    Version,
)
from dure.serve.ollama.embeddings import embedded, normalized
from dure.serve.ollama.errors import ollama_error
from dure.serve.ollama.mapping import (
    check_raw,
    note_keep_alive,
    options_of,
    schema_of,
    task_of_chat,
    task_of_prompt,
)
from dure.serve.ollama.requests import (
    AnswerRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    OllamaChatRequest,
    ShowRequest,
)
from dure.serve.runner import TextEvent, run_chat, run_text
from dure.serve.runs import Run
from dure.serve.state import CurrentServer, ServerState, caller_of

__all__ = ["router"]

_THINK = {"enable_thinking": "think", "reasoning_effort": "think"}
_encode = msgspec.json.Encoder().encode


def _line(value: StreamObject) -> bytes:
    return _encode(value) + b"\n"


# No comments: every line is an answer's, and clients parse empty ones too.
OLLAMA_STREAM = StreamFraming(_line, "application/x-ndjson", keep_alive=b"")


class OllamaRoute(JsonRoute):
    @staticmethod
    def error_body(problem: Problem) -> dict[str, Any]:
        return dict(ollama_error(problem))


def router() -> APIRouter:
    """Return the routes of Ollama's API."""
    routes = APIRouter(prefix="/api", route_class=OllamaRoute, tags=["Ollama"])
    routes.post("/chat", **OLLAMA_STYLE.route(Chatted, stream=True))(chat)
    routes.post("/generate", **OLLAMA_STYLE.route(Generated, stream=True))(generate)
    routes.post("/embed", **OLLAMA_STYLE.route(OllamaEmbeddings))(embed)
    routes.post("/embeddings", **OLLAMA_STYLE.route(OllamaEmbedding))(embeddings)
    routes.post("/show", **OLLAMA_STYLE.route(Described))(show)
    routes.get("/tags", **OLLAMA_STYLE.route(Models))(tags)
    routes.get("/ps", **OLLAMA_STYLE.route(Models))(ps)
    routes.get("/version", **OLLAMA_STYLE.route(Version))(version)
    return routes


async def chat(body: OllamaChatRequest, request: Request, server: CurrentServer) -> Response:
    """Continue a conversation; streamed unless `stream` is false."""
    options = _options(body, request, server)
    answer = OllamaAnswer(server.model.variant(body.model).name, chatted)
    if not body.messages:
        return json_response(answer.loaded())
    prepared = await server.prepare(task_of_chat(body), _THINK)
    return await _answered(run_chat(server.model, prepared, options), answer, body, request, server)


async def generate(body: GenerateRequest, request: Request, server: CurrentServer) -> Response:
    """Answer a prompt, or continue it if it is raw; streamed unless `stream` is false."""
    options = _options(body, request, server)
    answer = OllamaAnswer(server.model.variant(body.model).name, generated)
    if not body.prompt:
        task_of_prompt(body)
        return json_response(answer.loaded())
    run: Run[ChatEvent] | Run[TextEvent]
    if body.raw:
        check_raw(body)
        prompt = await server.model.tokenize(body.prompt, special=True)
        run = run_text(
            server.model,
            prompt,
            options,
            await grammar_of(server.model.texts, None, schema_of(body)),
        )
    else:
        run = run_chat(server.model, await server.prepare(task_of_prompt(body), _THINK), options)
    return await _answered(run, answer, body, request, server)


def _options(body: AnswerRequest, request: Request, server: ServerState) -> GenerationOptions:
    model = server.model
    model.check_ready()
    adapters = model.variant(body.model).adapters
    return options_of(body, server.sampling, model.engine.info.n_ctx, caller_of(request), adapters)


async def _answered(
    run: Run[ChatEvent] | Run[TextEvent],
    answer: OllamaAnswer,
    body: AnswerRequest,
    request: Request,
    server: ServerState,
) -> Response:
    stream = body.stream is not False
    return await send_answer(
        request, run, answer, OLLAMA_STREAM, stream=stream, silence=server.silence
    )


async def embed(body: EmbedRequest, request: Request, server: CurrentServer) -> Response:
    """Embed texts as vectors of length 1; `dimensions` keeps the first of their numbers."""
    started_s = time.perf_counter()
    note_keep_alive(body.keep_alive)
    texts = [body.input] if isinstance(body.input, str) else body.input
    work = embedded(server, body, texts, truncate=body.truncate is not False)
    found = await while_connected(request, work)
    if isinstance(found, Response):
        return found
    vectors, n_tokens = found
    answer = {
        "model": server.model.variant(body.model).name,
        "embeddings": [normalized(vector, body.dimensions) for vector in vectors],
        "total_duration": round((time.perf_counter() - started_s) * 1e9),
        "load_duration": 0,
        "prompt_eval_count": n_tokens,
    }
    return json_response(answer)


async def embeddings(body: EmbeddingsRequest, request: Request, server: CurrentServer) -> Response:
    """Embed one text; the vector has the length that the model gives it."""
    note_keep_alive(body.keep_alive)
    texts = [body.prompt] if body.prompt else []
    found = await while_connected(request, embedded(server, body, texts, truncate=True))
    if isinstance(found, Response):
        return found
    vectors, _ = found
    return json_response({"embedding": vectors[0] if vectors else []})


async def show(body: ShowRequest, server: CurrentServer) -> Response:
    """Describe the model."""
    server.model.check_ready()
    name = (body.model or body.name or "").removesuffix(":latest")
    if name not in (
        *(one.name.removesuffix(":latest") for one in server.model.variants),
        *server.model.aliases,
    ):
        raise NotFoundError(f"model {name!r} not found: this server has {server.model.name!r}")
    verbose = bool(body.verbose)
    found = await asyncio.to_thread(models.described, server.model.engine.info, verbose=verbose)
    return json_response(found)


async def tags(server: CurrentServer) -> Response:
    """List the models: the one that is served, and with each of its adapters."""
    server.model.check_ready()
    info = server.model.engine.info
    listed = [models.listed(info, one.name) for one in server.model.variants]
    return json_response({"models": listed})


async def ps(server: CurrentServer) -> Response:
    """List the loaded models: the one that is served."""
    if server.model.engine.state != "ready":
        return json_response({"models": []})
    return json_response({"models": [models.running(server.model.engine.info, server.model.name)]})


async def version() -> Response:
    """Name the release of Ollama whose API this is."""
    return json_response({"version": OLLAMA_VERSION})
