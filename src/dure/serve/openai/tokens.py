"""/tokenize, /detokenize and /apply-template: what a model reads, without computing anything.

In llama-server's form, and in vLLM's, whose clients name a text `prompt`.
"""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import MaxLen
from fastapi import APIRouter, Response

from dure.errors import ParameterError
from dure.http.body import JsonRoute
from dure.http.problems import json_response
from dure.http.request_model import RequestBody, examples
from dure.serve.dialect.documentation import OPENAI_STYLE
from dure.serve.openai.chat_mapping import prompt_task_of, wish_names
from dure.serve.openai.chat_request import OpenAIChatRequest
from dure.serve.openai.document import Prompt, Text, TokenizerInfo, Tokens
from dure.serve.openai.prompts import Mixed, TokenId
from dure.serve.served_model import ServedModel
from dure.serve.state import CurrentServer

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute, tags=["tokens"])


class TokenizeRequest(RequestBody):
    """A text, as `content` or `prompt`.

    add_special, add_special_tokens: begin as the model wants; so does `prompt` by default. parse_special:
    read names of special tokens as these.
    """

    model_config = examples(
        {"content": "The bell rings.", "with_pieces": True}, {"prompt": "The bell rings."}
    )

    content: str | Mixed | None = None
    prompt: str | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None
    model: str | None = None

    def text(self) -> tuple[str | Mixed, bool]:
        """Return the text, and whether it begins as the model wants. Raises ParameterError."""
        if (self.content is None) == (self.prompt is None):
            raise ParameterError("content", "content", "give a text, as content or as prompt")
        begins = self.add_special_tokens if self.add_special is None else self.add_special
        if self.prompt is not None:
            return self.prompt, begins is not False
        assert self.content is not None
        return self.content, bool(begins)


class DetokenizeRequest(RequestBody):
    """Tokens to decode."""

    model_config = examples({"tokens": [1, 2, 3]})

    tokens: Annotated[list[TokenId], MaxLen(1 << 20)]
    model: str | None = None


@router.post("/tokenize", **OPENAI_STYLE.route(Tokens))
async def tokenize(body: TokenizeRequest, server: CurrentServer) -> Response:
    """Return the tokens of a text."""
    tokens = await _tokens(body, server.model)
    shown: list[Any] = list(tokens)
    if body.with_pieces:
        shown = [{"id": token, "piece": _piece(server.model, token)} for token in tokens]
    return json_response({"tokens": shown, "count": len(tokens)})


async def _tokens(body: TokenizeRequest, model: ServedModel) -> list[int]:
    text, begins = body.text()
    parts = [text] if isinstance(text, str) else text
    special = body.parse_special is not False
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, str):
            add_bos = begins and not tokens
            tokens += await model.tokenize(part, special=special, add_bos=add_bos)
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
    text = data.decode("utf-8", "replace")
    return json_response({"content": text, "prompt": text})


@router.get("/tokenizer_info", **OPENAI_STYLE.route(TokenizerInfo))
async def show_tokenizer(server: CurrentServer) -> Response:
    """Return how texts and conversations are written for the model, as vLLM does."""
    vocabulary = server.model.vocabulary
    return json_response(
        {
            "bos_token": vocabulary.bos_text or None,
            "eos_token": vocabulary.eos_text or None,
            "chat_template": vocabulary.chat_template() or None,
        }
    )


@router.post("/apply-template", **OPENAI_STYLE.route(Prompt))
async def apply_template(body: OpenAIChatRequest, server: CurrentServer) -> Response:
    """Return the prompt that is made of a conversation."""
    prepared = await server.prepare(prompt_task_of(body), wish_names(body))
    return json_response({"prompt": prepared.prompt_text})
