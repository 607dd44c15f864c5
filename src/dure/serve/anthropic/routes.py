"""The routes `/v1/messages` and `/v1/messages/count_tokens`.

Knows HTTP. Refuses to know what a request means and how an answer is written.
The headers `anthropic-version` and `anthropic-beta` change nothing: what a body may say is the same
for every version.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from dure.chat.format import PreparedChat
from dure.http.body import JsonRoute
from dure.http.problems import Problem, json_response
from dure.serve.anthropic.answer import MessageAnswer
from dure.serve.anthropic.document import ANTHROPIC_STYLE, MessageObject, TokenCount
from dure.serve.anthropic.errors import anthropic_error
from dure.serve.anthropic.mapping import options_of, quieter, task_of, thoughts_of
from dure.serve.anthropic.requests import CountTokensRequest, MessagesRequest
from dure.serve.dialect.answering import StreamFraming, send_answer, typed_sse
from dure.serve.runner import run_chat
from dure.serve.state import CurrentServer, ServerState, caller_of

__all__ = ["router"]

ANTHROPIC_STREAM = StreamFraming(typed_sse, keep_alive=typed_sse({"type": "ping"}))


class AnthropicRoute(JsonRoute):
    @staticmethod
    def error_body(problem: Problem) -> dict[str, Any]:
        return anthropic_error(problem)


def router() -> APIRouter:
    """Return the routes of Anthropic's API."""
    routes = APIRouter(prefix="/v1/messages", route_class=AnthropicRoute, tags=["Anthropic"])
    routes.post("", **ANTHROPIC_STYLE.route(MessageObject, stream=True))(create_message)
    routes.post("/count_tokens", **ANTHROPIC_STYLE.route(TokenCount))(count_message_tokens)
    return routes


async def create_message(
    body: MessagesRequest, request: Request, server: CurrentServer
) -> Response:
    """Answer in Anthropic's Messages API, whole or as a stream of typed events."""
    variant = server.model.variant(body.model)
    options = options_of(body, server.sampling, caller_of(request), variant.adapters)
    prepared = await _prepared(body, server)
    return await send_answer(
        request,
        run_chat(server.model, prepared, options),
        MessageAnswer(
            variant.name,
            len(prepared.prompt),
            body.max_tokens,
            options.stop,
            thoughts=thoughts_of(body),
        ),
        ANTHROPIC_STREAM,
        stream=bool(body.stream),
        silence=server.silence,
    )


async def count_message_tokens(body: CountTokensRequest, server: CurrentServer) -> Response:
    """Count the tokens of a request's prompt; nothing is generated."""
    prepared = await _prepared(body, server)
    return json_response({"input_tokens": len(prepared.prompt)})


async def _prepared(body: CountTokensRequest, server: ServerState) -> PreparedChat:
    task = task_of(body)
    quiet = quieter(body, task)
    if quiet is not None and server.think == "auto":
        return await server.prepare(quiet, {"enable_thinking": ""})
    return await server.prepare(
        task, {"enable_thinking": "thinking", "reasoning_effort": "output_config.effort"}
    )
