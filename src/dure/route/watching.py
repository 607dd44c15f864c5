"""Asks upstreams how they are: their health and queue every two seconds, their models now and then.

Knows the addresses and names of dure, llama-server, vLLM and Ollama. Refuses to know what follows from it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from dure.route.client import UpstreamError
from dure.route.live_upstream import LiveUpstream
from dure.route.measuring import measure

__all__ = ["look", "watching"]

T = TypeVar("T")

_EVERY_S = 2.0
_SHAPE_EVERY_S = 30.0
_CLOUD_EVERY_S = 60.0  # others count how often they are asked
_MOST_SLOTS = 1024  # that are believed
_WAIT_S = 5.0
_ABSENT = (401, 403, 404, 405, 501)
_RUNNING, _WAITING = (
    re.compile(rb"^(?:" + names + rb")(?:\{[^}]*\})? ([0-9.e+]+)", re.MULTILINE)
    for names in (
        rb"dure_requests_running|llamacpp:requests_processing|vllm:num_requests_running",
        rb"dure_requests_waiting|llamacpp:requests_deferred|vllm:num_requests_waiting",
    )
)


@asynccontextmanager
async def watching(upstreams: Sequence[LiveUpstream]) -> AsyncIterator[None]:
    """Ask all of them until the block ends; each has been asked once when it begins."""
    await asyncio.gather(*map(look, upstreams))
    tasks = [asyncio.create_task(_watch(one)) for one in upstreams]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in upstreams:
            one.client.close()


async def _watch(live: LiveUpstream) -> None:
    is_cloud = live.upstream.kind == "cloud"
    last_shape_s = time.monotonic()
    while True:
        await asyncio.sleep(_CLOUD_EVERY_S if is_cloud else _EVERY_S)
        now_s = time.monotonic()
        with_shape = is_cloud or live.health.status != "up" or now_s - last_shape_s > _SHAPE_EVERY_S
        last_shape_s = now_s if with_shape else last_shape_s
        await look(live, with_shape=with_shape)
        if live.is_to_be_measured and live.state(now_s) == "up" and not live.learned.answers.n:
            live.is_to_be_measured = False
            await measure(live)


async def look(live: LiveUpstream, *, with_shape: bool = True) -> None:
    """Ask an upstream how it is, and note it. with_shape: what it serves, too."""
    if live.way != "open":
        live.health = live.health.unreachable(live.why_closed)
        return
    was_up = live.health.status == "up"
    try:
        async with asyncio.timeout(_WAIT_S):
            await _ask_health(live)
            if live.health.status == "up":
                if not was_up:
                    live.prefixes.clear()  # it may have been started anew
                    live.addresses.forget()
                await _ask_queue(live)
                if with_shape or not was_up:
                    await _ask_shape(live)
    except TimeoutError:
        if not live.places:  # some servers answer nothing else while they compute
            live.health = live.health.unreachable(f"does not answer within {_WAIT_S:g} s")
    except UpstreamError as error:
        live.health = live.health.unreachable(str(error))


async def _ask_health(live: LiveUpstream) -> None:
    status, _ = (503, b"") if live.upstream.kind == "cloud" else await _get(live, "/health")
    if status in _ABSENT or live.upstream.kind == "cloud":
        status, _ = await _get(live, "/v1/models")
    if status == 503:
        live.health = live.health.found_loading()
    elif status < 500:
        live.health = live.health.found_up()
    else:
        live.health = live.health.unreachable(f"answers {status} to /health")


async def _ask_queue(live: LiveUpstream) -> None:
    if live.upstream.kind == "cloud":
        return
    status, text = await _get(live, "/metrics")
    if status == 200:
        active = _figure(_RUNNING, text) + _figure(_WAITING, text)
        live.places.others = max(0, active - len(live.places))


def _figure(pattern: re.Pattern[bytes], text: bytes) -> int:
    found = pattern.search(text)
    return int(float(found[1])) if found else 0


class _Meta(msgspec.Struct):
    n_ctx: int | None = None


class _Model(msgspec.Struct):
    """A model as it is listed. max_model_len: vLLM's context; meta: llama-server's."""

    id: str
    aliases: list[str] | None = None
    max_model_len: int | None = None
    meta: _Meta | None = None

    @property
    def context(self) -> int | None:
        return self.max_model_len or (self.meta.n_ctx if self.meta else None)


class _Models(msgspec.Struct):
    data: list[_Model] = []


class _Properties(msgspec.Struct):
    default_generation_settings: _Meta | None = None
    total_slots: int | None = None


async def _ask_shape(live: LiveUpstream) -> None:
    learned = live.learned
    if (found := await _get_as(live, "/v1/models", _Models)) is not None:
        names = [name for one in found.data for name in (one.id, *(one.aliases or ()))]
        learned.models = tuple(dict.fromkeys(names))
        learned.context = (found.data[0].context if found.data else None) or learned.context
    is_cloud = live.upstream.kind == "cloud"
    if not is_cloud and (told := await _get_as(live, "/props", _Properties)) is not None:
        settings = told.default_generation_settings
        learned.context = (settings.n_ctx if settings else None) or learned.context
        slots = min(told.total_slots or 0, _MOST_SLOTS)
        learned.parallel = slots if slots > 0 else learned.parallel
    live.learn_shape()


async def _get_as(live: LiveUpstream, path: str, kind: type[T]) -> T | None:
    """Return a page's content, None if there is no such page or it is of another kind."""
    status, text = await _get(live, path)
    try:
        return msgspec.json.decode(text, type=kind) if status == 200 else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


async def _get(live: LiveUpstream, path: str) -> tuple[int, bytes]:
    answer = await live.client.send("GET", path, live.key_headers())
    return answer.status, await answer.body()
