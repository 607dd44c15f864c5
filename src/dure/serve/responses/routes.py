"""The route `/v1/responses`.

Knows HTTP. Refuses to know what a request means and how an answer is written.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from dure.http.body import JsonRoute
from dure.serve.dialect.answering import StreamFraming, send_answer, typed_sse
from dure.serve.responses.answer import ResponseAnswer
from dure.serve.responses.document import RESPONSES_STYLE, ResponseObject
from dure.serve.responses.echo import echo_of
from dure.serve.responses.mapping import options_of, task_of
from dure.serve.responses.requests import ResponsesRequest
from dure.serve.runner import run_chat
from dure.serve.state import CurrentServer, caller_of

__all__ = ["router"]

RESPONSES_STREAM = StreamFraming(typed_sse)


def router() -> APIRouter:
    """Return the route, at both addresses that clients know."""
    routes = APIRouter(route_class=JsonRoute, tags=["Responses"])
    documented = RESPONSES_STYLE.route(ResponseObject, stream=True)
    routes.post("/v1/responses", **documented)(create_response)
    alias = RESPONSES_STYLE.route(ResponseObject, stream=True, alias=True)
    routes.post("/responses", **alias)(create_response)
    return routes


async def create_response(
    body: ResponsesRequest, request: Request, server: CurrentServer
) -> Response:
    """Answer in OpenAI's Responses API, whole or as a stream of typed events."""
    variant = server.model.variant(body.model)
    options = options_of(body, server.sampling, caller_of(request), variant.adapters)
    prepared = await server.prepare(task_of(body), {"reasoning_effort": "reasoning.effort"})
    return await send_answer(
        request,
        run_chat(server.model, prepared, options),
        ResponseAnswer(body, echo_of(body, variant.name, options.sampling)),
        RESPONSES_STREAM,
        stream=bool(body.stream),
        silence=server.silence,
    )
