"""The route `/v1/responses`.

Knows HTTP. Refuses to know what a request means and how an answer is written.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from dure.chat.task import ChatEvent
from dure.http.body import JsonRoute
from dure.http.problems import json_response, problem_of
from dure.http.sse import EventStream, opened, sse, while_connected
from dure.serve.openai.answers import documented
from dure.serve.responses.answer import ResponseAnswer
from dure.serve.responses.document import ResponseObject
from dure.serve.responses.echo import echo_of
from dure.serve.responses.mapping import options_of, task_of
from dure.serve.responses.requests import ResponsesRequest
from dure.serve.runner import run_chat
from dure.serve.runs import Run
from dure.serve.state import ServerState, State, owner_of

__all__ = ["router"]


def router() -> APIRouter:
    """The route, at both addresses that clients know."""
    routes = APIRouter(route_class=JsonRoute, tags=["Responses"])
    routes.post("/v1/responses", **documented(ResponseObject, stream=True))(create_response)
    alias = documented(ResponseObject, stream=True, alias=True)
    routes.post("/responses", **alias)(create_response)
    return routes


async def create_response(body: ResponsesRequest, request: Request, state: State) -> Response:
    """Answer in OpenAI's Responses API, whole or as a stream of typed events."""
    run, answer = await _begun(body, request, state)
    if not body.stream:
        return await while_connected(request, _whole(run, answer))
    chunks = await opened(_chunks(run, answer), request)
    if chunks is None:
        return Response(status_code=499)
    return EventStream(
        chunks, lambda error: _failure(answer, error), keep_alive_s=state.keep_alive_s
    )


async def _begun(
    body: ResponsesRequest, request: Request, state: ServerState
) -> tuple[Run[ChatEvent], ResponseAnswer]:
    options = options_of(body, state.sampling, owner_of(request))
    prepared = await state.prepare(task_of(body))
    answer = ResponseAnswer(body, echo_of(body, state.model, options.sampling))
    return run_chat(state, prepared, options), answer


async def _whole(run: Run[ChatEvent], answer: ResponseAnswer) -> Response:
    async with aclosing(run):
        async for event in run:
            answer.feed(event)
    return json_response(answer.value())


async def _chunks(run: Run[ChatEvent], answer: ResponseAnswer) -> AsyncGenerator[bytes, None]:
    async with aclosing(run):
        async for event in run:
            if told := answer.feed(event):
                yield _framed(told)


def _failure(answer: ResponseAnswer, error: Exception) -> bytes:
    problem = problem_of(error)
    codes = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
    return _framed(answer.fail(problem.message, codes.get(problem.status, "server_error")))


def _framed(events: list[dict[str, Any]]) -> bytes:
    return b"".join(sse(event, event["type"]) for event in events)
