"""/v1/chat/completions: conversations, streamed or whole.

Knows HTTP. Refuses to know what a request means and how an answer is written.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from dure.http.body import JsonRoute
from dure.http.problems import json_response
from dure.serve.dialect.answering import send_answer
from dure.serve.dialect.documentation import OPENAI_STYLE
from dure.serve.openai.chat_answer import ChatAnswer
from dure.serve.openai.chat_mapping import n_logprobs_of, task_of, wish_names
from dure.serve.openai.chat_request import OpenAIChatRequest
from dure.serve.openai.document import ChatCompletion, InputTokens
from dure.serve.openai.generation_mapping import options_of
from dure.serve.openai.stream import OPENAI_STREAM
from dure.serve.runner import run_chats
from dure.serve.state import CurrentServer, caller_of

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute, tags=["chat"])


@router.post("/v1/chat/completions", **OPENAI_STYLE.route(ChatCompletion, stream=True))
@router.post("/chat/completions", **OPENAI_STYLE.route(ChatCompletion, stream=True, alias=True))
async def create_chat_completion(
    body: OpenAIChatRequest, request: Request, server: CurrentServer
) -> Response:
    """Answer a conversation."""
    body.verbose = body.verbose or server.shows_prompts
    options = await options_of(body, server, caller_of(request), n_logprobs_of(body))
    prepared = await server.prepare(task_of(body), wish_names(body))
    return await send_answer(
        request,
        run_chats(server.model, prepared, options, body.n or 1),
        ChatAnswer(
            body, server.model.variant(body.model).name, server.fingerprint, prepared.prompt_text
        ),
        OPENAI_STREAM,
        stream=bool(body.stream),
        silence=server.silence,
    )


@router.post("/v1/chat/completions/input_tokens", **OPENAI_STYLE.route(InputTokens))
@router.post("/chat/completions/input_tokens", **OPENAI_STYLE.route(InputTokens, alias=True))
async def count_input_tokens(body: OpenAIChatRequest, server: CurrentServer) -> Response:
    """Count the tokens of a conversation's prompt."""
    prepared = await server.prepare(task_of(body), wish_names(body))
    return json_response({"object": "response.input_tokens", "input_tokens": len(prepared.prompt)})
