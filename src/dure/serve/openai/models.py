"""/v1/models: which models are served, under which names.

OpenAI's and Anthropic's clients ask at the same address, so an entry has the fields of both.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Response

from dure.errors import NotReadyError
from dure.http.body import JsonRoute
from dure.http.problems import NotFoundError, json_response
from dure.serve.dialect.documentation import GUARDED, OPENAI_STYLE
from dure.serve.openai.document import ModelList, OpenAIModel
from dure.serve.served_model import ServedModel
from dure.serve.state import CurrentServer, ServerState

__all__ = ["router"]

UNKNOWN = GUARDED | {404: "no such model"}

router = APIRouter(route_class=JsonRoute, tags=["models"])


@router.get("/v1/models", **OPENAI_STYLE.route(ModelList, errors=GUARDED))
@router.get("/models", **OPENAI_STYLE.route(ModelList, alias=True))
async def list_models(server: CurrentServer) -> Response:
    """List the models that are served: with each adapter, too."""
    models = _models(server)
    page = {"has_more": False, "first_id": models[0]["id"], "last_id": models[-1]["id"]}
    return json_response({"object": "list", "data": models, **page})


@router.get(
    "/v1/models/{model:path}",
    **OPENAI_STYLE.route(OpenAIModel, errors=UNKNOWN),
)
@router.get("/models/{model:path}", **OPENAI_STYLE.route(OpenAIModel, alias=True))
async def show_model(model: str, server: CurrentServer) -> Response:
    """Show one model, by its name or an alias."""
    for found in _models(server):
        if model == found["id"] or model in found["aliases"]:
            return json_response(found)
    raise NotFoundError(f"no model is named {model!r}", "/v1/models lists what is served")


def _models(server: ServerState) -> list[dict[str, Any]]:
    own = _entry(server.model)
    beside = [_entry(server.embedding)] if server.embedding else []
    others = [
        {**own, "id": one.name, "display_name": one.name, "parent": own["id"], "aliases": []}
        for one in server.model.variants[1:]
    ]
    return [own, *others, *beside]


def _entry(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "type": "model",
        "display_name": model.name,
        "created": model.created,
        "created_at": _as_text(model.created),
        "owned_by": "dure",
        "aliases": list(model.aliases),
        "tags": [],
        "meta": _meta(model),
    }


def _as_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _meta(model: ServedModel) -> dict[str, Any] | None:
    try:
        info = model.engine.info
    except NotReadyError:
        return None
    return {
        "architecture": info.architecture,
        "n_vocab": info.n_vocab,
        "n_ctx": info.n_ctx,
        "n_ctx_train": info.n_ctx_train,
        "n_embd": info.n_embd,
        "n_params": info.n_params,
        "size": info.weights_bytes,
        "file_type": info.file_type,
        "n_ranks": info.n_ranks,
    }
