"""The addresses of the page: the page itself, its feed, and what it may do.

Knows HTTP. Refuses to know what the figures mean.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Request, Response

from dure.engine.trace import PARTS
from dure.errors import BusyError, UsageError
from dure.generate.request import Request as Generation
from dure.generate.request import Sampling
from dure.generate.step_notes import StepNote, TokenTrace
from dure.http.body import JsonRoute, decode_json
from dure.http.guards.access import OWN_KEY, is_let_in, owner_of
from dure.http.guards.asgi import Scope
from dure.http.problems import NotFoundError, json_response
from dure.http.sse import EventStream, Silence, sse
from dure.serve.page import built
from dure.serve.page.machines import rank_names
from dure.serve.page.models import is_known, models_shown
from dure.serve.page.watch import PageWatch

__all__ = ["router"]

_FEED_EVERY_S = 0.5
_TRACE_S = 20.0  # to wait for a token
_PROMPT = [0] * 8  # tokens: what they mean does not matter
_NOT_BUILT = (
    "<!doctype html><title>dure</title><p>dure is running. This copy came without its page: "
    "<code>make page</code> builds it. <a href=docs>The API is described here.</a>"
)


router = APIRouter(route_class=JsonRoute, include_in_schema=False)


async def _current_page(request: Request) -> PageWatch:
    page: PageWatch = request.app.state.page
    return page


CurrentPage = Annotated[PageWatch, Depends(_current_page)]


@router.get("/")
async def show_page(request: Request) -> Response:
    """Show the page to a browser; greet others, as Ollama's clients, which ask here first."""
    if "text/html" not in request.headers.get("accept", ""):
        text = "dure is running: the API is described at /docs\n"
        return Response(text, media_type="text/plain", headers={"vary": "accept"})
    return built.index() or Response(_NOT_BUILT, media_type="text/html; charset=utf-8")


@router.get("/page/assets/{name}")
async def show_asset(name: str, request: Request) -> Response:
    """Show a file of the page."""
    if (found := built.asset(name, request.headers.get("accept-encoding", ""))) is None:
        raise NotFoundError("the page has no such file", "load it again")
    return found


@router.get("/page/feed")
async def feed(request: Request, watch: CurrentPage) -> Response:
    """Tell how the server is, twice a second, until the client goes or its key is revoked."""
    return EventStream(
        _feed(watch, request.scope),
        lambda _: b"",
        alive=lambda: sse({}, "alive"),
        silence=Silence(60.0, 60.0),
    )


@router.post("/page/requests/{request_id}/cancel")
async def cancel(request_id: str, request: Request, watch: CurrentPage) -> Response:
    """End a request: one's own, or as the server's owner any."""
    whose = watch.requests.owner(request_id)
    if whose is not None and whose != owner_of(request.scope):
        _check_owner(request)
    if not watch.requests.cancel(request_id):
        raise NotFoundError("there is no such request", "it has ended")
    return Response(status_code=204)


@router.get("/page/history")
async def show_history(watch: CurrentPage) -> Response:
    """Show the last day."""
    return json_response(watch.history.shown())


@router.get("/page/models")
async def show_models(watch: CurrentPage) -> Response:
    """Show the models of this machine, and what is done with them."""
    models = await asyncio.to_thread(models_shown, watch.served_path())
    return json_response({"models": models, "work": await asyncio.to_thread(watch.works.shown)})


@router.post("/page/models/pull")
async def pull(request: Request, watch: CurrentPage) -> Response:
    """Begin to pull a model. With keys, only the server's owner may."""
    _check_owner(request)
    asked = decode_json(await request.body())
    name = asked.get("name") if isinstance(asked, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise UsageError("no model is named", "give its name, as qwen3:0.6b")
    return json_response(watch.works.pull(name.strip()))


@router.post("/page/models/quantize")
async def quantize(request: Request, watch: CurrentPage) -> Response:
    """Begin to write a smaller file of a model here. With keys, only the server's owner may."""
    model, asked = await _model_of(request, watch)
    bits = _number(asked, "target_bpw", 1.0, 16.0)
    return json_response(await asyncio.to_thread(watch.works.quantize, model, bits))


@router.post("/page/models/cut")
async def cut(request: Request, watch: CurrentPage) -> Response:
    """Begin to cut a model here. With keys, only the server's owner may."""
    model, asked = await _model_of(request, watch)
    n_ranks = _number(asked, "ranks", 2, 1024)
    if n_ranks != int(n_ranks):
        raise UsageError(f"{n_ranks:g} ranks", "give a whole number")
    return json_response(await asyncio.to_thread(watch.works.cut, model, int(n_ranks)))


@router.post("/page/models/tune")
async def tune(request: Request, watch: CurrentPage) -> Response:
    """Begin to tune a model here with examples. With keys, only the server's owner may."""
    model, asked = await _model_of(request, watch)
    name, examples = asked.get("name"), asked.get("examples")
    if not isinstance(name, str) or not isinstance(examples, str) or not examples.strip():
        raise UsageError("no name, or no examples", "give a name and examples, as JSONL")
    epochs = _number(asked, "epochs", 0.01, 1000)
    tuned = await asyncio.to_thread(watch.works.tune, model, name, examples, epochs)
    return json_response(tuned)


@router.post("/page/work/{work_id}/stop")
async def stop(work_id: str, request: Request, watch: CurrentPage) -> Response:
    """Stop work on a model as Ctrl-C does, wherever it was begun. With keys, only the owner may."""
    _check_owner(request)
    if not await asyncio.to_thread(watch.works.stop, work_id):
        raise NotFoundError("there is no such work", "it has ended")
    return Response(status_code=204)


@router.post("/page/trace")
async def trace(watch: CurrentPage) -> Response:
    """Trace the next token; if none is being written, one is."""
    return json_response(_trace_shown(watch, await _traced(watch)))


def _check_owner(request: Request) -> None:
    """Raise HTTPException (403) for a key that was given to somebody: `dure ui` has the owner's own."""
    if owner_of(request.scope) not in ("", OWN_KEY):
        text = "only the server's owner may do this: with `dure ui`, on the server's machine"
        raise HTTPException(403, text)


async def _model_of(request: Request, watch: PageWatch) -> tuple[Path, dict[str, Any]]:
    """Return the model that a request of the owner's names, and all that it asks."""
    _check_owner(request)
    asked = decode_json(await request.body())
    path = asked.get("path") if isinstance(asked, dict) else None
    if not isinstance(path, str):
        raise UsageError("no model is named", "give its path, as /page/models has it")
    if not await asyncio.to_thread(is_known, Path(path), watch.served_path()):
        raise NotFoundError(f"{path} is no model of this machine", "see /page/models")
    return Path(path), asked


def _number(asked: dict[str, Any], name: str, least: float, most: float) -> float:
    found = asked.get(name)
    if not isinstance(found, int | float) or isinstance(found, bool) or not least <= found <= most:
        raise UsageError(f"{name}: {found}", f"give a number from {least:g} to {most:g}")
    return found


async def _feed(watch: PageWatch, scope: Scope) -> AsyncGenerator[bytes, None]:
    steps = watch.engine.steps
    n_steps, n_line = steps.n_seen, 0
    with watch.watching():
        while not watch.is_stopping and is_let_in(scope):
            notes = steps.since(n_steps)
            n_steps = steps.n_seen
            lines = watch.journal.since(n_line)
            chunks = []
            if lines:
                n_line = lines[-1].n
                chunks.append(sse(msgspec.to_builtins(lines), "log"))
            chunks.append(watch.state_event())
            if notes:
                chunks.append(sse([_step(note) for note in notes], "steps"))
            yield b"".join(chunks)
            await asyncio.sleep(_FEED_EVERY_S)


def _step(note: StepNote) -> dict[str, Any]:
    ranks = zip(note.compute_s, note.sync_s, note.idle_s, note.bytes_sent, strict=True)
    return {
        "at": note.at,
        "n_tokens": note.n_tokens,
        "n_prompt": note.n_prompt,
        "ranks": list(ranks),
    }


async def _traced(watch: PageWatch) -> TokenTrace:
    """Return the path of a token. Raises BusyError if none was written in time."""
    engine = watch.engine
    own = None if list(watch.requests) else engine.submit(_question())  # nobody is being answered
    try:
        async with asyncio.timeout(_TRACE_S):
            return await engine.steps.trace()
    except TimeoutError:
        raise BusyError(
            f"no token was written within {_TRACE_S:g} s", "try again when the prompts are read"
        ) from None
    finally:
        if own is not None:
            own.cancel()


def _question() -> Generation:
    return Generation(
        id=f"trace-{uuid.uuid4().hex}",
        prompt=_PROMPT,
        max_tokens=4,
        sampling=Sampling(temperature=0),
        ignore_eos=True,
        cache_prompt=False,
    )


def _trace_shown(watch: PageWatch, trace: TokenTrace) -> dict[str, Any]:
    info = watch.engine.info
    layers = [i.layer for own in trace.ranks for i in own if i.layer is not None]
    return {
        "token_s": max((own[-1].ended_s for own in trace.ranks if own), default=0.0),
        "n_layers": 1 + max(layers, default=-1),
        "n_ranks": len(trace.ranks),
        "sums": trace.n_sums,
        "bytes_sent": sum(trace.note.bytes_sent),
        "n_experts": trace.n_experts or None,
        "experts": trace.experts or None,
        "weights_bytes": [place.weights_bytes for place in info.places],
        "ranks": [
            {"node": name, "intervals": [[i.part, i.begun_s, i.ended_s, i.layer] for i in own]}
            for name, own in zip(rank_names(info.places), trace.ranks, strict=True)
        ],
        "parts": [
            {part: sum(i.ended_s - i.begun_s for i in own if i.part == part) for part in PARTS}
            for own in trace.ranks
        ],
    }
