"""What a node does for the root: a small fixed set of verbs, over HTTPS, for whoever TLS let in.

Knows this machine and the node's own directory. Refuses to run anything that is not dure's own, and to
write anywhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Header, Request, Response, WebSocket, WebSocketDisconnect
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from dure.cluster.node.ranks import (
    MOST_ORDER_BYTES,
    RankOrder,
    RankReport,
    RankRuns,
    device_of,
    named_device,
)
from dure.cluster.node.shards import CHUNK_BYTES, HeldShard, ShardStore
from dure.cluster.root.speeds import measure_here
from dure.engine.compute.build import problem_of_build
from dure.errors import DureError, ResourceError
from dure.hardware.health import Platform
from dure.hardware.probe import health, platform, probe

__all__ = ["MOST_BODY_BYTES", "agent_app", "versions"]

MOST_BODY_BYTES = CHUNK_BYTES + (1 << 16)
MOST_SHARD_BYTES = 1 << 50
ORDER_S = 20.0  # to say what is wanted
Name = Annotated[str, InPath(max_length=200)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Begun(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    size_bytes: Annotated[int, Field(gt=0, lt=MOST_SHARD_BYTES)]


class _Measured(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: Annotated[str, Field(pattern="^[A-Z0-9_]{1,16}$")]


class _Finished(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    digest: Sha256


def versions() -> dict[str, str]:
    """What must be the same on all nodes of a cluster, by name."""
    names = {"dure": "dure", "llama.cpp": "llama-cpp-python", "mpich": "mpich"}
    return {name: version(package) for name, package in names.items()}


@cache
def own_platform() -> Platform:
    """What this machine is; llama.cpp is started once to see whether it can be."""
    return platform(versions(), problem_of_build)


def agent_app(directory: Path, quota_bytes: int = 0, interface: str = "") -> FastAPI:
    """The agent of the node whose files lie in `directory`.

    quota_bytes: for shards; 0 is as much as fits. interface: the network device that ranks use, or ""
    for the one that the root comes through.
    """
    app = FastAPI(title="dure node", docs_url=None, redoc_url=None)
    app.add_exception_handler(DureError, _refused)
    _add_facts(app, directory)
    _add_speed(app)
    store = ShardStore(directory / "shards", quota_bytes)
    _add_shards(app, store)
    _add_ranks(app, RankRuns(directory, store), lambda host: _device(directory, host, interface))
    return app


def _refused(_request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 413 if isinstance(error, ResourceError) else 400)


def _add_facts(app: FastAPI, directory: Path) -> None:
    @app.get("/facts")
    def facts() -> dict[str, Any]:
        """What this machine is, and how it is now."""
        return {
            "platform": dataclasses.asdict(own_platform()),
            "health": dataclasses.asdict(health(directory)),
        }


def _add_speed(app: FastAPI) -> None:
    @app.post("/speed", responses={400: {"description": "there is no such type"}})
    def speed(measured: _Measured) -> dict[str, Any]:
        """Measure how fast this machine computes with weights of a type."""
        return msgspec.structs.asdict(measure_here(measured.type, probe().cores))

    @app.post("/sink")
    async def sink(request: Request) -> dict[str, Any]:
        """Take bytes and forget them: it measures the line."""
        return {"bytes": len(await request.body())}


def _add_shards(app: FastAPI, store: ShardStore) -> None:
    refusals: dict[int | str, Any] = {
        400: {"description": "it makes no sense"},
        413: {"description": "there is no room"},
    }

    @app.get("/shards")
    def shards() -> dict[str, Any]:
        """Every shard that is here or on its way, and the room that is left."""
        return {"shards": [_told(held) for held in store.all()], "free_bytes": store.free_bytes()}

    @app.post("/shards/{name}", responses=refusals)
    def begin(name: Name, begun: _Begun) -> dict[str, Any]:
        """Make room for a shard, or go on with one; what is there of it."""
        held = store.begin(name, begun.size_bytes)
        return {**_told(held), "chunks": held.chunks.hex()}

    @app.put("/shards/{name}/chunks/{index}", responses=refusals)
    async def put(
        name: Name, index: int, request: Request, x_sha256: Annotated[Sha256, Header()]
    ) -> dict[str, Any]:
        """Take a chunk."""
        data = await request.body()
        await run_in_threadpool(store.put, name, index, data, bytes.fromhex(x_sha256))
        return {}

    @app.post("/shards/{name}/finish", responses=refusals)
    def finish(name: Name, finished: _Finished) -> dict[str, Any]:
        """A shard is complete."""
        store.finish(name, finished.digest)
        return {}

    @app.post("/shards/{name}/check", responses=refusals)
    def check(name: Name) -> dict[str, Any]:
        """Read a whole shard; where a chunk is damaged, it is to be sent again."""
        return {"sound": store.is_sound(name)}

    @app.delete("/shards/{name}", responses=refusals)
    def delete(name: Name) -> dict[str, Any]:
        """Forget a shard."""
        store.delete(name)
        return {}


def _device(directory: Path, host: str, interface: str) -> str:
    links = health(directory).links
    return named_device(interface, links) if interface else device_of(host, links)


def _add_ranks(app: FastAPI, runs: RankRuns, device_for: Callable[[str], str]) -> None:
    @app.websocket("/rank")
    async def rank(socket: WebSocket) -> None:
        """Start this node's rank; the line carries what its proxy and mpiexec say, and ends it."""
        await socket.accept()
        try:
            async with asyncio.timeout(ORDER_S):
                data = await socket.receive_bytes()
            if len(data) > MOST_ORDER_BYTES:
                raise ValueError("the order is too long")
            order = msgspec.json.decode(data, type=RankOrder)
        except (TimeoutError, WebSocketDisconnect, ValueError, KeyError, RuntimeError):
            await socket.close(1003, "this is no order")
            return
        host = (socket.scope.get("server") or ("", 0))[0]
        async with runs.alone():
            try:
                device = device_for(host)
                report = await runs.run(order, device, _blocks(socket), socket.send_bytes)
            except DureError as error:
                told = msgspec.json.encode(error.record()).decode()
                report = RankReport(1, {f"rank{order.rank}.error": told})
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the root has gone
                await socket.send_text(msgspec.json.encode(report).decode())
                await socket.close()


async def _blocks(socket: WebSocket) -> AsyncIterator[bytes]:
    """What mpiexec says over a line, until it or the line has ended."""
    with contextlib.suppress(RuntimeError):
        while block := (await socket.receive()).get("bytes"):
            yield block


def _told(held: HeldShard) -> dict[str, Any]:
    return {
        "name": held.name,
        "size_bytes": held.size_bytes,
        "whole": held.whole,
        "digest": held.digest,
        "used": held.used,
    }
