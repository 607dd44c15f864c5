"""Runs a server with all guards and a small API, to test the guards.

In this process (`serving`), or as its own process that handles signals (`python guarded_server.py
JSON`, which prints its URL). Knows no model.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.generate.request import Done, EngineStats, Event, ModelInfo, Request, Timings
from dure.http.access_log import record_of
from dure.http.binding import bound
from dure.http.guards.access import owner_of
from dure.http.guards.asgi import Receive, Scope, Send
from dure.http.guards.keys import KeyRing
from dure.http.guards.tls import Tls
from dure.http.log_sink import LogSink
from dure.http.server import HttpServer, Served, serve
from dure.http.settings import ServerSettings
from dure.serve.engine import ChangingAdapters, EngineState, StepWatching
from dure.serve.metrics import Metrics

WAIT_S = 30.0  # detects a hang; nothing is measured with it
CHUNK = b"x" * 65536
KEYS = ("alice:sk-alice-0123456789", "bob:sk-bob-0123456789")


@dataclass
class ScriptedAnswer:
    """A fixed list of events; after `cancel`, only the cancelled end."""

    events: Sequence[Event]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True

    async def __aiter__(self) -> AsyncIterator[Event]:
        for event in self.events:
            if self.cancelled:
                yield Done(event.id, "cancelled", Timings(prompt_tokens=3, tokens=2))
                return
            yield event


@dataclass
class ScriptedEngine:
    """An engine that answers with given events."""

    events: Sequence[Event] = ()
    answers: list[ScriptedAnswer] = field(default_factory=list)

    state: EngineState = "ready"
    progress = 1.0
    doing = ""
    reason = ""
    restarts = 3
    info = ModelInfo("/m.gguf", "m", "qwen3", 64, 64, 9, 8, 4, 2, (1, 1), 10, 10, "F16")
    stats = EngineStats(
        running=1,
        waiting=2,
        kv_used=16,
        kv_total=64,
        prompt_tokens=30,
        prompt_s=0.5,
        generated_tokens=20,
        generate_s=4.0,
        cache_queries=40,
        cache_hits=10,
        steps=10,
        step_s=4.5,
        sync_s=(0.25, 0.5),
        compute_s=(4.0, 3.75),
        lost_s=(0.0, 1.5),
        bytes_sent=(100.0, 200.0),
        peak_bytes=(7, 8),
        sequences_held=3,
    )

    def submit(self, _request: Request, /) -> ScriptedAnswer:
        self.answers.append(ScriptedAnswer(self.events))
        return self.answers[-1]

    async def embed(
        self,
        inputs: Sequence[Sequence[int]],
        adapters: AdapterSet = NO_ADAPTERS,  # noqa: ARG002  # as the protocol
    ) -> list[list[float]]:
        return [[float(len(tokens))] for tokens in inputs]

    @property
    def adapters(self) -> ChangingAdapters:
        raise AssertionError("it loads none")

    @property
    def steps(self) -> StepWatching:
        raise AssertionError("nobody watches it")


@dataclass
class SmallApi:
    """A substitute for the API. running, ended: counts of requests of /stream and /endless."""

    running: int = 0
    ended: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        routes: dict[str, Callable[[Scope, Receive, Send], Any]] = {
            "/stream": self._counted(_stream),
            "/endless": self._counted(_endless),
            "/fault": _fault,
            "/late-fault": _late_fault,
        }
        await routes.get(scope["path"], _echo)(scope, receive, send)

    def _counted(self, route: Callable[[Scope, Receive, Send], Any]) -> Any:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            self.running += 1
            reason = "finished"
            try:
                if await _until_hung_up(route(scope, receive, send), receive):
                    reason = "hung up"
            except asyncio.CancelledError:
                reason = "cancelled"
                raise
            finally:
                self.running -= 1
                self.ended.append(reason)

        return counted


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive()).get("body", b"")
    told = {"size": len(body), "owner": owner_of(scope)}
    if scope["path"] == "/tokens" and (record := record_of(scope)):
        record.prompt_tokens, record.completion_tokens = json.loads(body)
    await _answer(send, json.dumps(told).encode())


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Stream the number of events that the query names, one every 20 ms."""
    await _start(send, b"text/event-stream")
    for i in range(int(scope["query_string"])):
        await send({"type": "http.response.body", "body": b"data: %d\n\n" % i, "more_body": True})
        await asyncio.sleep(0.02)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _endless(scope: Scope, receive: Receive, send: Send) -> None:
    await _start(send, b"application/octet-stream")
    while True:
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await asyncio.sleep(0)


async def _fault(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("the text of a bug")


async def _late_fault(scope: Scope, receive: Receive, send: Send) -> None:
    await _start(send, b"text/event-stream")
    await send({"type": "http.response.body", "body": b"data: 0\n\n", "more_body": True})
    raise RuntimeError("the text of a bug")


async def _start(send: Send, content_type: bytes) -> None:
    headers = [(b"content-type", content_type)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _until_hung_up(work: Any, receive: Receive) -> bool:
    """Return whether the client hung up before the work was done."""

    async def hang_up() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(hang_up())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return not tasks[0].done()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Serving:
    """A running server. log: its access log so far."""

    url: str
    port: int
    api: SmallApi
    server: HttpServer
    metrics: Metrics
    log_file: Path

    def log(self, n: int) -> list[str]:
        """Return the lines of the log, once there are n."""
        wait_for(
            lambda: self.log_file.exists() and len(self.log_file.read_text().splitlines()) >= n
        )
        return self.log_file.read_text().splitlines()


@contextmanager
def serving(log_file: Path, **options: Any) -> Iterator[Serving]:
    """Run a server on a free port, in its own thread; options are those of ServerSettings."""
    settings = ServerSettings(**{"port": 0, "log_file": log_file, "deadline_s": 5, **options})
    api, metrics = SmallApi(), Metrics(ScriptedEngine(), "m")
    keys = KeyRing(settings.api_keys, settings.api_key_file)
    tls = (
        Tls(settings.tls_cert, settings.tls_key) if settings.tls_cert and settings.tls_key else None
    )
    with bound(settings) as binding, LogSink(log_file) as sink:
        server = HttpServer(api, settings, metrics, keys, sink, tls)

        def run() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(server.serve(list(binding.sockets)))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield Serving(binding.url, binding.port, api, server, metrics, log_file)
        finally:
            server.stop()
            thread.join(WAIT_S)
            assert not thread.is_alive(), "the server did not end"


def read_all(sock: socket.socket) -> bytes:
    """Read until the other side closes the connection."""
    answer = b""
    while more := sock.recv(1 << 20):
        answer += more
    return answer


def raw(server: Serving, data: bytes) -> bytes:
    """Send these bytes and return everything until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), 30) as sock:
        sock.sendall(data)
        return read_all(sock)


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until a condition is true; a hang fails."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def main() -> int:
    """Serve with the settings in the JSON until a signal comes."""
    options = json.loads(sys.argv[1])
    for name in ("log_file", "api_key_file", "tls_cert", "tls_key"):
        if options.get(name):
            options[name] = Path(options[name])
    settings = ServerSettings(**{"port": 0, **options})
    metrics = Metrics(ScriptedEngine(), "m")

    def announce(url: str) -> None:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()

    return serve(Served(SmallApi(), metrics), settings, model="m", announce=announce)


if __name__ == "__main__":
    sys.exit(main())
