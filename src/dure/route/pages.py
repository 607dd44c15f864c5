"""Answers what a router answers itself: how it is, and the models of all upstreams as one list.

Knows the lists of OpenAI's and Anthropic's APIs, and llama-server's properties. Refuses to route.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from dure.route import ollama_pages
from dure.route.live_upstream import LiveUpstream
from dure.route.router import Router

__all__ = ["OF_ONE_SERVER", "PAGES", "page", "template"]

_OF_MODELS = ("/v1/models/", "/models/")
_NO_TIME = 0  # when a model was made is not known here


async def page(router: Router, path: str) -> tuple[int, Any] | None:
    """Return the status and the content of a page, a text or what becomes JSON; None if there is none."""
    if path in PAGES:
        await router.look_here()
        return await PAGES[path](router)
    for beginning in _OF_MODELS:
        if path.startswith(beginning):
            await router.look_here()
            return _model(router, path.removeprefix(beginning))
    return None


def template(path: str) -> str:
    """Return the template of a page's path, as `dure serve` has it: all models have the same."""
    beginning = next((one for one in _OF_MODELS if path.startswith(one)), None)
    return path if beginning is None else f"{beginning}{{model:path}}"


async def _hello(_: Router) -> tuple[int, Any]:
    return 200, "dure is running: it routes requests to other servers\n"


async def _health(router: Router) -> tuple[int, Any]:
    states = {name: live.health.status for name, live in router.upstreams.items()}
    if any(live.health.status == "up" for live in router.upstreams.values()):
        return 200, {"status": "ok", "upstreams": states}
    message = "no upstream answers now"
    error = {"code": 503, "message": message, "type": "unavailable_error", "param": None}
    return 503, {"error": error, "upstreams": states}


async def _properties(router: Router) -> tuple[int, Any]:
    """Return what llama-server's clients ask for, and another router: the context, and the places."""
    up = [one for one in router.upstreams.values() if one.health.status == "up"]
    has_images = any(one.upstream.vision for one in up)
    return 200, {
        "default_generation_settings": {"n_ctx": _longest(up)},
        "total_slots": sum(one.parallel for one in up),
        "model_path": "",
        "model_alias": "auto",
        "chat_template": "",
        "modalities": {"vision": has_images, "audio": False},
    }


async def _models(router: Router) -> tuple[int, Any]:
    entries = [_entry(name, serving) for name, serving in router.serving().items()]
    ends = {"has_more": False, "first_id": entries[0]["id"], "last_id": entries[-1]["id"]}
    return 200, {"object": "list", "data": entries, **ends}


def _model(router: Router, name: str) -> tuple[int, Any]:
    if serving := router.serving().get(name):
        return 200, _entry(name, serving)
    message = f"no upstream serves {name!r}: /v1/models lists what is served"
    error = {"code": 404, "message": message, "type": "not_found_error", "param": None}
    return 404, {"error": error}


def _entry(name: str, serving: list[LiveUpstream]) -> dict[str, Any]:
    context = _longest(serving)
    return {
        "id": name,
        "object": "model",
        "type": "model",
        "display_name": name,
        "created": _NO_TIME,
        "created_at": datetime.fromtimestamp(_NO_TIME, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "owned_by": "dure",
        "upstreams": [one.name for one in serving],
        "meta": {"n_ctx": context} if context else None,
    }


def _longest(serving: list[LiveUpstream]) -> int | None:
    return max((one.context for one in serving if one.context), default=None)


PAGES: Mapping[str, Callable[[Router], Awaitable[tuple[int, Any]]]] = {
    "/": _hello,
    "/health": _health,
    "/v1/health": _health,
    "/props": _properties,
    "/v1/models": _models,
    "/models": _models,
    "/api/tags": ollama_pages.tags,
    "/api/ps": ollama_pages.loaded,
    "/api/version": ollama_pages.version,
}
"""The addresses that a router answers a GET at."""

OF_ONE_SERVER = frozenset({"/", "/props"})  # answered by the server that a router is a part of
