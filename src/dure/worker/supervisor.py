"""Runs the engine for a server: starts its process, watches it, and restarts it when it dies.

Requests are kept with their tokens so far (`pending`): a new engine resumes where the old one stopped, so
an answer only pauses. Refuses to know HTTP and text.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence

import msgspec

from dure.deploy.options import RestartReason
from dure.deploy.reporter import EngineEvent
from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.errors import (
    BusyError,
    DureError,
    EngineError,
    NotReadyError,
    ResourceError,
    UsageError,
    context_error,
    revived,
)
from dure.generate.request import (
    EngineStats,
    ModelInfo,
    Request,
    check_adapters,
    check_tokens,
)
from dure.worker import protocol as msg
from dure.worker.adapter_registry import AdapterRegistry
from dure.worker.awaited import Awaited
from dure.worker.embedding_requests import embeddings
from dure.worker.engine_process import EngineProcess
from dure.worker.lifecycle import Lifecycle, ShownState
from dure.worker.pending import PendingAnswer, PendingRequests
from dure.worker.restart_policy import RestartPolicy
from dure.worker.watched_steps import WatchedSteps

__all__ = ["READY_AGAIN", "EngineSupervisor"]

FORGIVEN_S = 60.0  # an engine that ran for longer did not die of its requests
STOPPING = "the server is stopping"
TRY_LATER = "try another one, or later"
READY_AGAIN = "the engine is ready again"
NO_REASON = "it gave no reason"


class EngineSupervisor:
    """Starts an engine and keeps it running; see `dure.serve.engine.Engine`.

    max_waiting: requests of one owner that may wait, before BusyError. warn: called with the engine's
    warnings and every restart.
    """

    def __init__(
        self,
        options: msg.EngineOptions,
        *,
        max_waiting: int = 64,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._options, self._max_waiting, self._warn = options, max_waiting, warn
        self._lifecycle = Lifecycle()
        self._policy = RestartPolicy(on_cluster=options.run.cluster)
        self._pending = PendingRequests()
        self._process = EngineProcess(self._handle)
        self.adapters = AdapterRegistry(
            len(options.run.lora), self._process.send, warn, self._takes_requests
        )
        self.steps = WatchedSteps(self._process.send, self._takes_requests)
        self.progress, self.doing, self.reason = 0.0, "starting", ""
        self.stats = EngineStats()
        self._restart: RestartReason | None = None
        self._info: ModelInfo | None = None
        self._answered_at = self._ready_at = 0.0  # last event, and last time it became ready
        self._is_ready = False
        self._stopping = False
        self._error: DureError | None = None  # that ended the engine, if it reported one
        self._first: Awaited | None = None
        self._task: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ for a server

    @property
    def state(self) -> ShownState:
        """Return the engine's state, as clients of the API see it."""
        is_hopeless = self._policy.is_hopeless
        return self._lifecycle.shown(was_loaded=self._info is not None, is_hopeless=is_hopeless)

    @property
    def restarts(self) -> int:
        """Return how often the engine was restarted."""
        return self._policy.n_restarts

    @property
    def info(self) -> ModelInfo:
        """Return the model's description. Raises NotReadyError before it was first loaded."""
        if self._info is None:
            raise NotReadyError(
                "the model is being loaded", "try again in a moment", progress=self.progress
            )
        return self._info

    @property
    def pid(self) -> int | None:
        """Return the ID of the engine's process."""
        return self._process.pid

    def submit(self, request: Request) -> PendingAnswer:
        """Start a request; see `dure.serve.engine.Engine.submit`."""
        self._check(request)
        if request.sampling.seed is None:  # a replay must draw the same random numbers
            seeded = msgspec.structs.replace(request.sampling, seed=secrets.randbits(63))
            request = msgspec.structs.replace(request, sampling=seeded)
        try:
            data = msg.encode(msg.Submit(request))
        except (UnicodeEncodeError, OverflowError) as error:
            raise UsageError(f"the request cannot be sent to the engine: {error}") from None
        answer = self._pending.add(request, self._cancel)
        if self.state == "ready":
            self._process.send_encoded(data)
        return answer

    def _check(self, request: Request) -> None:
        info = self.info
        if self._stopping:
            raise NotReadyError(STOPPING, TRY_LATER)
        if self.state == "failed":
            raise EngineError(f"the engine does not run: {self.reason}")
        if request.id in self._pending:
            raise UsageError(f"request {request.id} runs already", "give each its own id")
        check_tokens(request, info.n_vocab)
        check_adapters(request, self.adapters.usable)
        if len(request.prompt) >= info.n_ctx + self._options.embedding:
            raise context_error(len(request.prompt), info.n_ctx)
        n = self._pending.n_of(request.owner)
        if n >= info.n_sequences + self._max_waiting:
            raise BusyError(
                f"{n} requests of this client run or wait already", "try again in a moment"
            )

    async def embed(
        self, inputs: Sequence[Sequence[int]], adapters: AdapterSet = NO_ADAPTERS
    ) -> list[list[float]]:
        """Return a pooled embedding of each input's tokens; see `dure.serve.engine.Engine.embed`."""
        return await embeddings(self.submit, inputs, adapters)

    def _cancel(self, request_id: str) -> None:
        if not self._pending.mark_cancelled(request_id):
            return
        if self.state == "ready":
            self._process.send(msg.Cancel(request_id))
        else:
            self._pending.end_cancelled()

    def _takes_requests(self) -> bool:
        return self.state == "ready" and not self._stopping

    # ------------------------------------------------------------ starting and stopping

    def start(self) -> None:
        """Start to load the model; `ready` waits for it."""
        self._first = Awaited()
        self._task = asyncio.create_task(self._supervise())
        self._task.add_done_callback(self._report_bug)

    async def ready(self) -> None:
        """Wait until the model is first loaded. Raises the error that prevents it."""
        assert self._first is not None, "start comes first"
        await self._first.wait()

    async def close(self) -> None:
        """End the engine; requests that still run fail with NotReadyError."""
        is_loading, self._stopping = self.state != "ready", True
        self._lifecycle.on(EngineEvent.STOPS)
        await self._process.stop(is_loading=is_loading)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._fail_all(NotReadyError(STOPPING, TRY_LATER))

    async def _supervise(self) -> None:
        while True:
            await self._run_engine()
            if self._stopping:
                return
            self._lifecycle.on(EngineEvent.LOST)
            if self._info is None:  # a user's mistake, which a restart does not correct
                self._lifecycle.on(EngineEvent.GIVES_UP)
                self._fail_all(self._error or EngineError(self.reason))
                return
            self._prepare_restart()
            await asyncio.sleep(self._policy.pause_s)
            if self._stopping:
                return
            self._lifecycle.on(EngineEvent.RESTARTS)

    def _prepare_restart(self) -> None:
        was_ready, now = self._is_ready, time.monotonic()
        self._policy.engine_ended(was_ready=was_ready)
        silent_s = now - self._answered_at if was_ready and len(self._pending) else 0.0
        self._restart = RestartReason(self.reason, round(silent_s, 2))
        self.doing, self.progress = "the engine starts again", 0.0
        self._warn(f"the engine ended ({self.reason}); it is started again")
        self._pending.end_cancelled()
        self.adapters.engine_died()
        self.steps.engine_died()
        forgiven = was_ready and now - self._ready_at > FORGIVEN_S
        self._pending.engine_died(self.reason, was_ready=was_ready, forgiven=forgiven)
        if self._policy.is_hopeless:
            self._lifecycle.on(EngineEvent.GIVES_UP)
            self._fail_all(EngineError(f"the engine does not start: {self.reason}"))

    async def _run_engine(self) -> None:
        """Run one engine from its start to its end."""
        self._error, self.reason, self._is_ready = None, NO_REASON, False
        try:
            cause = await self._process.run(self._next_options())
        except OSError as error:
            self._error = ResourceError(f"the engine cannot be started: {error}")
            cause = str(self._error)
        if self._error is None or self.reason == NO_REASON:
            self.reason = cause

    def _next_options(self) -> msg.EngineOptions:
        """Return the options of the next start; fewer machines keep the context that clients know."""
        options, run = self._options, self._options.run
        if self._info and run.cluster:
            run = msgspec.structs.replace(run, ctx=self._info.n_ctx)
        later = self.adapters.of_next_engine
        return msgspec.structs.replace(options, run=run, restart=self._restart, adapters=later)

    def _report_bug(self, task: asyncio.Task[None]) -> None:
        """Fail everything that waits if `_supervise` has a bug; `close` raises the bug."""
        if task.cancelled() or (bug := task.exception()) is None:
            return
        self._lifecycle.on(EngineEvent.BREAKS)
        self.reason = f"{type(bug).__name__}: {bug}"
        self._fail_all(EngineError(self.reason))

    def _fail_all(self, error: DureError) -> None:
        """Let everything that waits fail: no engine comes any more."""
        if self._first is not None:
            self._first.fail(error)
        self._pending.fail_all(error)
        self.adapters.fail_all(error)
        self.steps.engine_died(error)

    # ------------------------------------------------------------ from the engine

    def _handle(self, message: msg.FromWorker) -> None:
        match message:
            case msg.Events(events):
                self._answered_at = time.monotonic()
                for event in events:
                    self._pending.deliver(event)
            case msg.Stats(stats):
                self.stats = stats
            case msg.AdapterAttached() | msg.AdapterDetached():
                self.adapters.take(message)
            case msg.StepsNoted() | msg.TokenTraced():
                self.steps.take(message)
            case msg.Ready(info):
                self._became_ready(info)
            case msg.Fatal(record):
                self._error, self.reason = revived(record), record.message
            case _:
                self._note_progress(message)

    def _note_progress(self, message: msg.Loading | msg.StartEvent | msg.Warned) -> None:
        match message:
            case msg.Loading(what, fraction):
                self.doing, self.progress = what, fraction
            case msg.StartEvent(event):
                self._lifecycle.on(EngineEvent(event))
            case msg.Warned(text, is_news):
                if is_news or not self.restarts:
                    self._warn(text)

    def _became_ready(self, info: ModelInfo) -> None:
        self._is_ready = True
        if self._stopping:
            return
        if self.restarts:
            self._warn(READY_AGAIN)
        self._lifecycle.on(EngineEvent.LOADED)
        self._info, self.progress, self.doing = info, 1.0, ""
        self._answered_at = self._ready_at = time.monotonic()
        if self._first is not None:
            self._first.keep()
        for request in self._pending.resumed():
            self._process.send(msg.Submit(request))
        self.adapters.engine_ready()
        self.steps.engine_ready()
