"""/tokenize, /detokenize and /apply-template: what a model reads, without computing anything."""

from __future__ import annotations

from typing import Annotated

from annotated_types import MaxLen
from fastapi import APIRouter, Response

from dure.http.body import JsonRoute
from dure.http.problems import json_response
from dure.http.request_model import RequestBody, examples
from dure.serve.dialect.documentation import OPENAI_STYLE
from dure.serve.openai.chat_mapping import prompt_task_of
from dure.serve.openai.chat_request import OpenAIChatRequest
from dure.serve.openai.document import Prompt, Text, Tokens
from dure.serve.openai.prompts import Mixed, TokenId
from dure.serve.served_model import ServedModel
from dure.serve.state import CurrentServer

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute, tags=["tokens"])


class TokenizeRequest(RequestBody):
    """add_special: begin as the model wants. parse_special: read names of special tokens as these."""

    model_config = examples({"content": "The bell rings.", "with_pieces": True})

    content: str | Mixed
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None
    model: str | None = None


class DetokenizeRequest(RequestBody):
    """Tokens to decode."""

    model_config = examples({"tokens": [1, 2, 3]})

    tokens: Annotated[list[TokenId], MaxLen(1 << 20)]
    model: str | None = None


@router.post("/tokenize", **OPENAI_STYLE.route(Tokens))
async def tokenize(body: TokenizeRequest, server: CurrentServer) -> Response:
    """Return the tokens of a text."""
    tokens = await _tokens(body, server.model)
    if not body.with_pieces:
        return json_response({"tokens": tokens})
    return json_response(
        {"tokens": [{"id": token, "piece": _piece(server.model, token)} for token in tokens]}
    )


async def _tokens(body: TokenizeRequest, model: ServedModel) -> list[int]:
    parts = [body.content] if isinstance(body.content, str) else body.content
    special = body.parse_special is not False
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, str):
            begins = bool(body.add_special) and not tokens
            tokens += await model.tokenize(part, special=special, add_bos=begins)
        else:
            tokens.append(part)
    model.check_tokens(tokens, "content")
    return tokens


def _piece(model: ServedModel, token: int) -> str | list[int]:
    """Return a token's text, or its bytes if they are part of a character."""
    data = model.piece(token, special=True)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


@router.post("/detokenize", **OPENAI_STYLE.route(Text))
async def detokenize(body: DetokenizeRequest, server: CurrentServer) -> Response:
    """Return the text of tokens."""
    server.model.check_tokens(body.tokens, "tokens")
    data = b"".join(server.model.piece(token, special=True) for token in body.tokens)
    return json_response({"content": data.decode("utf-8", "replace")})


@router.post("/apply-template", **OPENAI_STYLE.route(Prompt))
async def apply_template(body: OpenAIChatRequest, server: CurrentServer) -> Response:
    """Return the prompt that is made of a conversation."""
    prepared = await server.prepare(prompt_task_of(body))
    return json_response({"prompt": prepared.prompt_text})
