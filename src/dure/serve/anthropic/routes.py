"""The routes `/v1/messages` and `/v1/messages/count_tokens`.

Knows HTTP. Refuses to know what a request means and how an answer is written.
The headers `anthropic-version` and `anthropic-beta` change nothing: what a body may say is the same
for every version, and what it may not is refused.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from fastapi import APIRouter, Request, Response

from dure.chat.format import PreparedChat
from dure.chat.task import ChatEvent
from dure.errors import UsageError
from dure.http.body import JsonRoute
from dure.http.problems import Problem, json_response, problem_of
from dure.http.sse import EventStream, opened, sse, while_connected
from dure.serve.anthropic.answer import MessageAnswer
from dure.serve.anthropic.document import MessageObject, TokenCount, documented
from dure.serve.anthropic.errors import anthropic_error
from dure.serve.anthropic.mapping import options_of, quieter, task_of, thoughts_of
from dure.serve.anthropic.requests import CountTokensRequest, MessagesRequest
from dure.serve.runner import run_chat
from dure.serve.runs import Run
from dure.serve.state import ServerState, State, owner_of

__all__ = ["router"]

_PING = sse({"type": "ping"}, "ping")


class _Route(JsonRoute):
    @staticmethod
    def error_body(problem: Problem) -> dict[str, Any]:
        return anthropic_error(problem)


def router() -> APIRouter:
    """The routes of Anthropic's API."""
    routes = APIRouter(prefix="/v1/messages", route_class=_Route, tags=["Anthropic"])
    routes.post("", **documented(MessageObject, stream=True))(create_message)
    routes.post("/count_tokens", **documented(TokenCount))(count_message_tokens)
    return routes


async def create_message(body: MessagesRequest, request: Request, state: State) -> Response:
    """Answer in Anthropic's Messages API, whole or as a stream of typed events."""
    run, answer = await _begun(body, request, state)
    if not body.stream:
        return await while_connected(request, _whole(run, answer))
    chunks = await opened(_chunks(run, answer), request)
    if chunks is None:
        return Response(status_code=499)
    return EventStream(chunks, _failure, keep_alive_s=state.keep_alive_s, comment=_PING)


async def count_message_tokens(body: CountTokensRequest, state: State) -> Response:
    """How many tokens the prompt of a request has; nothing is generated."""
    prepared = await _prepared(body, state)
    return json_response({"input_tokens": len(prepared.prompt)})


async def _begun(
    body: MessagesRequest, request: Request, state: ServerState
) -> tuple[Run[ChatEvent], MessageAnswer]:
    options = options_of(body, state.sampling, owner_of(request))
    prepared = await _prepared(body, state)
    answer = MessageAnswer(
        state.model,
        len(prepared.prompt),
        body.max_tokens,
        options.stop,
        thoughts=thoughts_of(body),
    )
    return run_chat(state, prepared, options), answer


async def _prepared(body: CountTokensRequest, state: ServerState) -> PreparedChat:
    task = task_of(body)
    quiet = quieter(body, task)
    if quiet is not None:
        with suppress(UsageError):  # what else is wrong with it is wrong with the task too
            return await state.prepare(quiet)
    return await state.prepare(task)


async def _whole(run: Run[ChatEvent], answer: MessageAnswer) -> Response:
    async with aclosing(run):
        async for event in run:
            answer.feed(event)
    return json_response(answer.value())


async def _chunks(run: Run[ChatEvent], answer: MessageAnswer) -> AsyncGenerator[bytes, None]:
    async with aclosing(run):
        async for event in run:
            if told := answer.feed(event):
                yield b"".join(sse(one, one["type"]) for one in told)


def _failure(error: Exception) -> bytes:
    return sse(anthropic_error(problem_of(error)), "error")
