"""/tokenize, /detokenize and /apply-template: what a model reads, without computing anything."""

from __future__ import annotations

from typing import Annotated

from annotated_types import MaxLen
from fastapi import APIRouter, Response

from dure.http.body import JsonRoute, StrictModel, examples
from dure.http.problems import json_response
from dure.serve.openai.answers import ERRORS, Prompt, Text, Tokens, documented
from dure.serve.openai.chat_request import ChatRequest
from dure.serve.openai.prompts import Mixed, Token
from dure.serve.state import ServerState, State

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute, tags=["tokens"])
REFUSED = ERRORS


class TokenizeRequest(StrictModel):
    """add_special: begin as the model wants. parse_special: read names of special tokens as these."""

    model_config = examples({"content": "The bell rings.", "with_pieces": True})

    content: str | Mixed
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None
    model: str | None = None


class DetokenizeRequest(StrictModel):
    """Tokens to be text again."""

    model_config = examples({"tokens": [1, 2, 3]})

    tokens: Annotated[list[Token], MaxLen(1 << 20)]
    model: str | None = None


@router.post("/tokenize", **documented(Tokens, errors=REFUSED))
async def tokenize(body: TokenizeRequest, state: State) -> Response:
    """The tokens of a text."""
    tokens = await _tokens(body, state)
    if not body.with_pieces:
        return json_response({"tokens": tokens})
    return json_response(
        {"tokens": [{"id": token, "piece": _piece(state, token)} for token in tokens]}
    )


async def _tokens(body: TokenizeRequest, state: ServerState) -> list[int]:
    parts = [body.content] if isinstance(body.content, str) else body.content
    special = body.parse_special is not False
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, str):
            begins = bool(body.add_special) and not tokens
            tokens += await state.tokenize(part, special=special, add_bos=begins)
        else:
            tokens.append(part)
    state.check_tokens(tokens, "content")
    return tokens


def _piece(state: ServerState, token: int) -> str | list[int]:
    """A token's text, or its bytes where they are part of a character."""
    data = state.piece(token, special=True)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


@router.post("/detokenize", **documented(Text, errors=REFUSED))
async def detokenize(body: DetokenizeRequest, state: State) -> Response:
    """The text of tokens."""
    state.check_tokens(body.tokens, "tokens")
    data = b"".join(state.piece(token, special=True) for token in body.tokens)
    return json_response({"content": data.decode("utf-8", "replace")})


@router.post("/apply-template", **documented(Prompt, errors=REFUSED))
async def apply_template(body: ChatRequest, state: State) -> Response:
    """The prompt that a conversation becomes."""
    prepared = await state.prepare(body.as_prompt())
    return json_response({"prompt": prepared.prompt_text})
