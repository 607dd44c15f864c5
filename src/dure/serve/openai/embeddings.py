"""/v1/embeddings: embeds texts as vectors of length 1.

Knows the shapes in and out. Refuses to know how a model pools.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le, MaxLen
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import Field

from dure.errors import ParameterError
from dure.http.body import JsonRoute
from dure.http.problems import json_response
from dure.http.request_model import RequestBody, examples
from dure.http.sse import while_connected
from dure.serve.dialect.documentation import ERRORS, OPENAI_STYLE
from dure.serve.openai.document import Embeddings
from dure.serve.openai.fields import EMBEDDING_FIELDS
from dure.serve.openai.prompts import ContentObject, Mixed, PromptObject, TokenId, Tokenizer
from dure.serve.served_model import ServedModel
from dure.serve.state import CurrentServer

__all__ = ["router"]

MAX_INPUTS = 2048  # as OpenAI
NOT_EMBEDDING = {501: "the model that runs does not embed"}

router = APIRouter(route_class=JsonRoute, tags=["embeddings"])

Vector = NDArray[np.float32]
Input = (
    str
    | PromptObject
    | ContentObject
    | Annotated[list[TokenId | str | Mixed | PromptObject | ContentObject], MaxLen(1 << 20)]
)


class EmbeddingRequest(RequestBody):
    """The body of /v1/embeddings. dimensions: keep only the first ones."""

    FIELDS = EMBEDDING_FIELDS

    model_config = examples({"input": "a bell"}, {"input": ["a bell", "the river", [1, 2, 3]]})

    input: Input
    model: Annotated[str, MaxLen(1024)] | None = Field(
        None, description="any; `model:adapter` has that adapter"
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Ge(1), Le(1 << 20)] | None = None


@router.post("/v1/embeddings", **OPENAI_STYLE.route(Embeddings, errors=ERRORS | NOT_EMBEDDING))
async def create_embeddings(
    body: EmbeddingRequest, request: Request, server: CurrentServer
) -> Response:
    """Embed texts as vectors; near ones mean alike."""
    return await while_connected(request, _openai(body, server.embedder()))


@router.post("/embedding", **OPENAI_STYLE.route(list[Any], errors=ERRORS | NOT_EMBEDDING))
@router.post("/embeddings", **OPENAI_STYLE.route(list[Any], alias=True))
async def create_native_embeddings(
    body: EmbeddingRequest, request: Request, server: CurrentServer
) -> Response:
    """Embed texts, in llama-server's own shape."""
    return await while_connected(request, _native(body, server.embedder()))


async def _openai(body: EmbeddingRequest, model: ServedModel) -> Response:
    vectors, n_tokens = await _vectors(body, model)
    name = model.variant(body.model).name
    encode = _base64 if body.encoding_format == "base64" else _numbers
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return json_response({"object": "list", "data": data, "model": name, "usage": usage})


async def _native(body: EmbeddingRequest, model: ServedModel) -> Response:
    vectors, _ = await _vectors(body, model)
    encode = _base64 if body.encoding_format == "base64" else lambda v: [_numbers(v)]
    return json_response(
        [{"index": index, "embedding": encode(vector)} for index, vector in enumerate(vectors)]
    )


async def _vectors(body: EmbeddingRequest, model: ServedModel) -> tuple[list[Vector], int]:
    inputs = await Tokenizer(model, "input").many(body.input)
    if len(inputs) > MAX_INPUTS:
        raise ParameterError("input", f"input: {len(inputs)} texts, at most {MAX_INPUTS} at once")
    n_embd = model.engine.info.n_embd
    if body.dimensions is not None and body.dimensions > n_embd:
        raise ParameterError("dimensions", f"dimensions: the model has only {n_embd}")
    n_tokens, at_once = sum(map(len, inputs)), model.engine.info.n_sequences
    adapters = model.variant(body.model).adapters
    vectors: list[Vector] = []
    for at in range(0, len(inputs), at_once):  # many texts never fill the queue of all requests
        raw = await model.engine.embed(inputs[at : at + at_once], adapters)
        vectors += [_unit(vector, body.dimensions) for vector in raw]
    return vectors, n_tokens


def _unit(vector: Sequence[float], dimensions: int | None) -> Vector:
    numbers = np.asarray(vector[:dimensions], dtype=np.float64)
    length = float(np.linalg.norm(numbers))
    return (numbers / length if length > 0 else numbers).astype(np.float32)


def _numbers(vector: Vector) -> list[float]:
    values: list[float] = vector.tolist()
    return values


def _base64(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
