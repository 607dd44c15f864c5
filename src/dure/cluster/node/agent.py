"""What a node does for the root: a small fixed set of verbs, over HTTPS, for whoever TLS let in.

Knows this machine and the node's own directory. Refuses to run anything that is not dure's own, but for
what examines the machine and changes one of the doctor's settings, and to write anywhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Header, Request, Response, WebSocket, WebSocketDisconnect
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from dure.cluster.examination import condition_here
from dure.cluster.network import device_of, named_device
from dure.cluster.node.membership import forget, name_request, take_name
from dure.cluster.node.ranks import RankRuns
from dure.cluster.node.shards import HeldShard, ShardStore
from dure.cluster.node_api import (
    CHUNK_BYTES,
    MOST_ORDER_BYTES,
    RANK_PATH,
    Acknowledged,
    AskSetting,
    BeginShard,
    BegunShard,
    CertificateRequest,
    CheckedShard,
    Examine,
    ExaminedMachine,
    FinishShard,
    KnownSetting,
    MeasureSpeed,
    NodeFacts,
    NodeGpus,
    NodeShard,
    NodeShards,
    RankOrder,
    RankReport,
    RenameNode,
    SunkBytes,
    TakeCertificate,
)
from dure.cluster.software import versions
from dure.cluster.trust.record_routes import RecordApp, answer, body_as, described
from dure.engine.compute.build import problem_of_build
from dure.engine.compute.gpu import gpus_in_process
from dure.engine.instruments.speed import Speed, measure_in_process
from dure.errors import DureError
from dure.hardware.health import Platform
from dure.hardware.probe import health, platform, probe
from dure.hardware.settings import MachineSettings

__all__ = ["MOST_BODY_BYTES", "agent_app"]

MOST_BODY_BYTES = CHUNK_BYTES + (1 << 16)
ORDER_S = 20.0  # to say what is wanted
_RECORDS = (
    *(BeginShard, BegunShard, CheckedShard, Acknowledged, FinishShard, MeasureSpeed, NodeFacts),
    *(NodeGpus, NodeShard, NodeShards, Speed, SunkBytes),
    *(Examine, ExaminedMachine, AskSetting, KnownSetting),
    *(RenameNode, CertificateRequest, TakeCertificate),
)
_REFUSALS = {400: "it makes no sense", 413: "there is no room"}

Name = Annotated[str, InPath(max_length=200)]
Sha256 = Annotated[str, Header(), Field(pattern="^[0-9a-f]{64}$")]
SpeedBody = Annotated[MeasureSpeed, Depends(body_as(MeasureSpeed))]
NameBody = Annotated[RenameNode, Depends(body_as(RenameNode))]
CertificateBody = Annotated[TakeCertificate, Depends(body_as(TakeCertificate))]
ExamineBody = Annotated[Examine, Depends(body_as(Examine))]
SettingBody = Annotated[AskSetting, Depends(body_as(AskSetting))]
BeginBody = Annotated[BeginShard, Depends(body_as(BeginShard))]
FinishBody = Annotated[FinishShard, Depends(body_as(FinishShard))]


def own_platform() -> Platform:
    """Return what this machine is; llama.cpp is started once to see if it can be."""
    return replace(platform(versions(), _problem_of_build), gpus=_gpu_names())


@cache
def _gpu_names() -> tuple[str, ...]:
    return tuple(gpu.description for gpu in gpus_in_process())


_problem_of_build = cache(problem_of_build)


def agent_app(
    directory: Path,
    quota_bytes: int = 0,
    interface: str = "",
    changed: Callable[[], None] = lambda: None,
) -> FastAPI:
    """Return the agent of the node whose files lie in `directory`.

    quota_bytes: for shards; 0 is as much as fits. interface: the network device that ranks use, or ""
    for the one that the root comes through. changed: is called when the node has another name, or none,
    and the root its answer.
    """
    app = RecordApp("dure node", _RECORDS)
    store = ShardStore(directory / "shards", quota_bytes)
    runs = RankRuns(directory, store)
    _add_facts(app, directory, runs)
    _add_examination(app, directory)
    _add_membership(app, directory, runs, changed)
    _add_speed(app)
    _add_shards(app, store)
    _add_ranks(app, runs, lambda host: _device(directory, host, interface))
    return app


def _add_facts(app: FastAPI, directory: Path, runs: RankRuns) -> None:
    @app.get("/facts", **described(NodeFacts))
    def facts() -> Response:
        """Tell what this machine is, how it is now, and who uses it."""
        return answer(NodeFacts(own_platform(), health(directory), runs.jobs()))


def _add_examination(app: FastAPI, directory: Path) -> None:
    @app.post("/examination", **described(ExaminedMachine, takes=Examine, refuses=_REFUSALS))
    def examine(asked: ExamineBody) -> Response:
        """Examine this machine, for the doctor."""
        return answer(ExaminedMachine(condition_here(directory, asked.only)))

    @app.post("/setting", **described(KnownSetting, takes=AskSetting, refuses=_REFUSALS))
    def setting(asked: SettingBody) -> Response:
        """Read a setting of this machine's latency, or change it, as far as this user may."""
        settings = MachineSettings()
        if asked.value is not None:
            settings.write(asked.name, asked.value)
        return answer(KnownSetting(settings.read(asked.name)))


def _add_membership(
    app: FastAPI, directory: Path, runs: RankRuns, changed: Callable[[], None]
) -> None:
    @app.post("/name", **described(CertificateRequest, takes=RenameNode, refuses=_REFUSALS))
    def prepare(asked: NameBody) -> Response:
        """Answer with a request for a certificate of another name."""
        return answer(CertificateRequest(name_request(directory, asked.name).decode()))

    @app.post("/certificate", **described(Acknowledged, takes=TakeCertificate, refuses=_REFUSALS))
    async def take(asked: CertificateBody) -> Response:
        """Take the certificate for that name, and be called so."""
        with runs.closed():
            await run_in_threadpool(take_name, directory, asked.certificate.encode())
        return answer(Acknowledged(), then=changed)

    @app.post("/leave", **described(Acknowledged, refuses=_REFUSALS))
    async def leave() -> Response:
        """Forget the cluster, and end."""
        with runs.closed():
            await run_in_threadpool(forget, directory)
        return answer(Acknowledged(), then=changed)


def _add_speed(app: FastAPI) -> None:
    no_such_type = {400: "there is no such type"}

    @app.post("/speed", **described(Speed, takes=MeasureSpeed, refuses=no_such_type))
    def speed(asked: SpeedBody) -> Response:
        """Measure how fast this machine computes with weights of a type."""
        return answer(measure_in_process(asked.type, probe().cores, asked.gpu))

    @app.get("/gpus", **described(NodeGpus))
    def gpus() -> Response:
        """Tell which GPUs llama.cpp can compute on here, and what memory they have free."""
        return answer(NodeGpus(gpus_in_process()))

    @app.post("/sink", **described(SunkBytes))
    async def sink(request: Request) -> Response:
        """Take bytes and forget them: that measures the connection."""
        return answer(SunkBytes(len(await request.body())))


def _add_shards(app: FastAPI, store: ShardStore) -> None:
    @app.get("/shards", **described(NodeShards))
    def shards() -> Response:
        """List every shard that is here or on its way, and the room that is left."""
        return answer(NodeShards([_shard(held) for held in store.all()], store.free_bytes()))

    @app.post("/shards/{name}", **described(BegunShard, takes=BeginShard, refuses=_REFUSALS))
    def begin(name: Name, asked: BeginBody) -> Response:
        """Make room for a shard, or go on with one; tell which chunks of it are here."""
        return answer(_begun(store.begin(name, asked.size_bytes)))

    @app.put("/shards/{name}/chunks/{index}", **described(Acknowledged, refuses=_REFUSALS))
    async def put(name: Name, index: int, request: Request, x_sha256: Sha256) -> Response:
        """Take a chunk."""
        data = await request.body()
        await run_in_threadpool(store.put, name, index, data, bytes.fromhex(x_sha256))
        return answer(Acknowledged())

    @app.post(
        "/shards/{name}/finish", **described(Acknowledged, takes=FinishShard, refuses=_REFUSALS)
    )
    def finish(name: Name, asked: FinishBody) -> Response:
        """Check that a shard is complete."""
        store.finish(name, asked.digest)
        return answer(Acknowledged())

    @app.post("/shards/{name}/check", **described(CheckedShard, refuses=_REFUSALS))
    def check(name: Name) -> Response:
        """Read a whole shard; if a chunk is damaged, it has to be sent again."""
        return answer(CheckedShard(store.is_sound(name)))

    @app.delete("/shards/{name}", **described(Acknowledged, refuses=_REFUSALS))
    def delete(name: Name) -> Response:
        """Delete a shard."""
        store.delete(name)
        return answer(Acknowledged())


def _shard(held: HeldShard) -> NodeShard:
    return NodeShard(held.name, held.size_bytes, held.whole, held.digest, held.used)


def _begun(held: HeldShard) -> BegunShard:
    return BegunShard(
        held.name, held.size_bytes, held.whole, held.digest, held.used, held.chunks.hex()
    )


def _device(directory: Path, host: str, interface: str) -> str:
    links = health(directory).links
    return named_device(interface, links) if interface else device_of(host, links)


def _add_ranks(app: FastAPI, runs: RankRuns, device_for: Callable[[str], str]) -> None:
    @app.websocket(RANK_PATH)
    async def rank(socket: WebSocket) -> None:
        """Start this node's rank; the socket carries what its proxy and mpiexec say, and ends it."""
        await socket.accept()
        try:
            order = await _order(socket)
        except (TimeoutError, WebSocketDisconnect, ValueError, KeyError, RuntimeError):
            await socket.close(1003, "this is no order")
            return
        host = (socket.scope.get("server") or ("", 0))[0]
        try:
            device = device_for(host)
            report = await runs.run(order, device, _blocks(socket), socket.send_bytes)
        except DureError as error:
            record = msgspec.json.encode(error.record()).decode()
            report = RankReport(1, {f"rank{order.rank}.error": record})
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the root has gone
            await socket.send_text(msgspec.json.encode(report).decode())
            await socket.close()


async def _order(socket: WebSocket) -> RankOrder:
    """Read the order to start a rank. Raises ValueError if it is none."""
    async with asyncio.timeout(ORDER_S):
        data = await socket.receive_bytes()
    if len(data) > MOST_ORDER_BYTES:
        raise ValueError("the order is too long")
    order = msgspec.json.decode(data, type=RankOrder)
    if not 0 <= order.rank < len(order.job.threads):
        raise ValueError(f"the job has no rank {order.rank}")
    return order


async def _blocks(socket: WebSocket) -> AsyncIterator[bytes]:
    """Yield what mpiexec says, until it or the connection has ended."""
    with contextlib.suppress(RuntimeError):
        while block := (await socket.receive()).get("bytes"):
            yield block
