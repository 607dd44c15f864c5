"""/v1/rerank: how well documents answer a query, the best first.

In Jina's form, which llama-server has too, and with the names that Cohere and TEI give the same fields.
Refuses to know how a model ranks.
"""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, MaxLen, MinLen
from fastapi import APIRouter, Request, Response
from pydantic import AliasChoices, Field

from dure.chat.reading import pair_of
from dure.errors import ParameterError
from dure.http.body import JsonRoute
from dure.http.problems import json_response
from dure.http.request_model import BodyPart, RequestBody, examples
from dure.http.sse import while_connected
from dure.serve.dialect.documentation import OPENAI_STYLE
from dure.serve.openai.document import Ranking
from dure.serve.openai.fields import EMBEDDING_FIELDS
from dure.serve.served_model import ServedModel
from dure.serve.state import CurrentServer

__all__ = ["RerankRequest", "router"]

MAX_DOCUMENTS = 2048

router = APIRouter(route_class=JsonRoute, tags=["embeddings"])


class RankedText(BodyPart):
    """A document as an object."""

    text: str


Documents = Annotated[list[str | RankedText], MinLen(1), MaxLen(MAX_DOCUMENTS)]


class RerankRequest(RequestBody):
    """The body of /v1/rerank. top_n: return only so many. return_documents: with their texts."""

    FIELDS = EMBEDDING_FIELDS

    model_config = examples(
        {"query": "Who rings the bell?", "documents": ["Dae does.", "The river is cold."]}
    )

    query: Annotated[str, MinLen(1)]
    documents: Documents | None = Field(None, validation_alias=AliasChoices("documents", "texts"))
    top_n: Annotated[int, Ge(1)] | None = None
    return_documents: bool | None = Field(
        None, validation_alias=AliasChoices("return_documents", "return_text")
    )
    model: Annotated[str, MaxLen(1024)] | None = Field(None, description="any: one is served")

    def texts(self) -> list[str]:
        """Return the documents. Raises ParameterError if there are none."""
        if self.documents is None:
            raise ParameterError("documents", "documents: there are none", "give some texts")
        return [one if isinstance(one, str) else one.text for one in self.documents]


@router.post("/v1/rerank", **OPENAI_STYLE.route(Ranking))
@router.post("/rerank", **OPENAI_STYLE.route(Ranking, alias=True))
@router.post("/v1/reranking", **OPENAI_STYLE.route(Ranking, alias=True))
@router.post("/reranking", **OPENAI_STYLE.route(Ranking, alias=True))
async def rerank(body: RerankRequest, request: Request, server: CurrentServer) -> Response:
    """Rank documents by how well they answer a query."""
    return await while_connected(request, _ranked(body, server.reranker()))


async def _ranked(body: RerankRequest, model: ServedModel) -> Response:
    texts = body.texts()
    pairs = [await model.texts.called(pair_of, body.query, text, is_long=True) for text in texts]
    at_once, scores = model.engine.info.n_sequences, list[float]()
    for at in range(0, len(pairs), at_once):
        scores += [values[0] for values in await model.engine.embed(pairs[at : at + at_once])]
    best = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.top_n]
    n_tokens = sum(map(len, pairs))
    return json_response(
        {
            "object": "list",
            "model": model.name,
            "results": [_result(i, scores[i], texts[i], body) for i in best],
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }
    )


def _result(index: int, score: float, text: str, body: RerankRequest) -> dict[str, Any]:
    result: dict[str, Any] = {"index": index, "relevance_score": score}
    return {**result, "document": {"text": text}} if body.return_documents else result
