"""Runs the API as a process: listens, lists itself for other commands, and ends in good order.

Knows uvicorn and signals. Refuses to know what is served, and what guards it.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import FrameType

import uvicorn
import uvloop

from dure.errors import DureError
from dure.http.access_log import RequestRecord, json_line, text_line
from dure.http.binding import bound
from dure.http.guards import guarded
from dure.http.guards.access import OWN_KEY
from dure.http.guards.asgi import App
from dure.http.guards.connection import ConnectionConfig, GuardedConnection
from dure.http.guards.keys import KeyRing
from dure.http.guards.stopping import RunningRequests
from dure.http.guards.tls import Tls
from dure.http.log_sink import LogSink
from dure.http.metrics import ServerMetrics
from dure.http.registry import registered
from dure.http.settings import ServerSettings, check_binding, is_public

__all__ = ["HttpServer", "Served", "serve"]

_log = logging.getLogger("dure.serve")
_LAST_WORDS_S = 5.0  # for cancelled requests to end their streams
_TLS_CHECK_TICKS = 100  # of 0.1 s


@dataclass(frozen=True)
class Served:
    """What is served: an application, and its figures.

    around: entered in the server's event loop before the first request is taken, left after the last.
    """

    app: App
    metrics: ServerMetrics
    around: AbstractAsyncContextManager[object] = field(default_factory=nullcontext)


def serve(
    served: Served,
    settings: ServerSettings,
    *,
    model: str,
    announce: Callable[[str], None] = lambda _: None,
    stopping: Callable[[], None] = lambda: None,
) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit code: 0, or 128 + the signal that came twice.

    model: its name in the list of servers. announce: gets the URL once it answers; stopping: is called when
    it begins to end. Raises UsageError or ResourceError before anything runs if settings, files or the
    address are invalid.
    """
    check_binding(settings)
    _allow_files(2 * settings.max_connections)
    own_key = secrets.token_urlsafe(32) if settings.has_keys else ""
    keys = KeyRing(
        (*settings.api_keys, *([f"{OWN_KEY}:{own_key}"] if own_key else [])), settings.api_key_file
    )
    tls = (
        Tls(settings.tls_cert, settings.tls_key) if settings.tls_cert and settings.tls_key else None
    )
    if settings.has_keys and not tls and is_public(settings):
        _log.warning("API keys and answers cross the network in clear: give --tls-cert, --tls-key")
    with ExitStack() as stack:
        binding = stack.enter_context(bound(settings))
        sink = stack.enter_context(LogSink(settings.log_file))
        server = HttpServer(served.app, settings, served.metrics, keys, sink, tls)
        server.on_started = partial(announce, ", ".join(binding.urls))
        server.on_stopping = stopping

        async def run() -> None:
            with server.capture_signals():
                async with served.around:
                    with registered(binding.url, model, own_key):
                        await server.serve(list(binding.sockets))

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    return server.exit_code


class HttpServer(uvicorn.Server):
    """The API behind its guards, on sockets that listen already.

    `stop` begins the end as SIGTERM does: new requests are answered 503, running ones have
    deadline_s, and what is left is cancelled. A second signal ends everything at once.
    """

    def __init__(
        self,
        app: App,
        settings: ServerSettings,
        metrics: ServerMetrics,
        keys: KeyRing,
        sink: LogSink,
        tls: Tls | None = None,
    ) -> None:
        self._settings, self._tls = settings, tls
        self._line = json_line if settings.log_format == "json" else text_line
        self._metrics, self._sink = metrics, sink
        self.running = RunningRequests()
        self.exit_code = 0
        self.on_started: Callable[[], None] = lambda: None
        self.on_stopping: Callable[[], None] = lambda: None
        self._end_at: float | None = None
        guarded_app = guarded(app, settings, keys, self.running, metrics, self._ended)
        super().__init__(_config(guarded_app, settings, tls))

    def stop(self) -> None:
        """Take no new requests, and end after the running ones, or at the deadline."""
        if self._end_at is None:
            self.running.stop()
            self._end_at = time.monotonic() + self._settings.deadline_s
            self.on_stopping()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (the signature of a handler)
        """Stop at SIGTERM or SIGINT; at the second one, at once."""
        if self._end_at is None:
            self.stop()
        else:
            self.exit_code = 128 + sig
            self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer requests."""
        await super().startup(sockets)
        self.on_started()

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end; asked ten times a second."""
        await super().on_tick(counter)
        if self._tls and counter % _TLS_CHECK_TICKS == 0:
            _refresh(self._tls)
        return self.force_exit or self._is_over()

    def _is_over(self) -> bool:
        if self._end_at is None:
            return False
        return not len(self.running) or time.monotonic() >= self._end_at

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 (bound closes them)
        """Close everything; requests that still run are cancelled, and end their own streams."""
        for server in self.servers:
            server.close()
        if not self.force_exit:
            await self._cancel_late()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._wait(lambda: not self.server_state.connections)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()
        await self.lifespan.shutdown()

    async def _cancel_late(self) -> None:
        if late := len(self.running):
            seconds = self._settings.deadline_s
            _log.warning("%d requests were cancelled: not done within %g s", late, seconds)
            self.running.cancel()
            await self._wait(lambda: not len(self.running))

    async def _wait(self, done: Callable[[], bool]) -> None:
        """Wait until it is done, for 5 s at most, or until a second signal comes."""
        end = time.monotonic() + _LAST_WORDS_S
        while not done() and not self.force_exit and time.monotonic() < end:
            await asyncio.sleep(0.02)

    def _ended(self, record: RequestRecord) -> None:
        self._metrics.observe_http(record)
        self._sink.write(self._line(record))


def _allow_files(n_files: int) -> None:
    """Raise the limit of open files to the connections that are set up, if the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n_files if hard == resource.RLIM_INFINITY else min(n_files, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _config(app: App, settings: ServerSettings, tls: Tls | None) -> ConnectionConfig:
    config = ConnectionConfig(
        app,
        http=GuardedConnection,
        ws="none",
        lifespan="auto",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.idle_timeout_s,  # type: ignore[arg-type]  # it is a call_later
    )
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    config.settings = settings
    config.load()
    config.ssl = tls.context if tls else None
    return config


def _refresh(tls: Tls) -> None:
    try:
        if tls.refresh():
            _log.warning("the certificate was read again")
    except DureError as error:
        _log.error("the old certificate stays in use: %s", error)
