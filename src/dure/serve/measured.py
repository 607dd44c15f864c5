"""Times the answers of an engine, and limits its prompts.

Stands at the seam between API and engine, so that every dialect is measured alike. Refuses to know
HTTP: the record of the request that is being answered is found in a context variable.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.errors import context_error
from dure.generate.request import Done, EngineStats, Event, Failed, ModelInfo, Request, Token
from dure.http.access_log import RequestRecord, current_record
from dure.serve.engine import ChangingAdapters, Engine, EngineState, StepWatching, TokenStream
from dure.serve.metrics import Metrics
from dure.serve.page.live_requests import LiveRequest, LiveRequests

__all__ = ["MeasuredEngine"]


class MeasuredEngine:
    """An `Engine` that reports the timings of its answers to `metrics` and to the request's record.

    max_prompt_tokens: longer prompts are refused with ContextError. None: the context is the limit.
    live: follows the requests that have not ended.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        model: str,
        max_prompt_tokens: int | None = None,
        live: LiveRequests | None = None,
    ) -> None:
        self._engine, self._metrics, self._model = engine, metrics, model
        self._live = live or LiveRequests()
        self._most = max_prompt_tokens

    @property
    def state(self) -> EngineState:
        """See Engine."""
        return self._engine.state

    @property
    def progress(self) -> float:
        """See Engine."""
        return self._engine.progress

    @property
    def doing(self) -> str:
        """See Engine."""
        return self._engine.doing

    @property
    def reason(self) -> str:
        """See Engine."""
        return self._engine.reason

    @property
    def restarts(self) -> int:
        """See Engine."""
        return self._engine.restarts

    @property
    def info(self) -> ModelInfo:
        """See Engine."""
        return self._engine.info

    @property
    def stats(self) -> EngineStats:
        """See Engine."""
        return self._engine.stats

    @property
    def adapters(self) -> ChangingAdapters:
        """See Engine."""
        return self._engine.adapters

    @property
    def steps(self) -> StepWatching:
        """See Engine."""
        return self._engine.steps

    def submit(self, request: Request) -> TokenStream:
        """Begin a request, and its clock. Raises as Engine, and ContextError above our own limit."""
        self._check(len(request.prompt))
        record = current_record.get()
        if record:
            record.model = self._model
            record.prompt_tokens = (record.prompt_tokens or 0) + len(request.prompt)
        answer = self._engine.submit(request)
        live = self._live.add(request, record, answer.cancel)
        stream = _MeasuredStream(answer, self._metrics, record, live, self._live.end)
        if record:
            record.at_end.append(stream.close)
        return stream

    async def embed(
        self, inputs: Sequence[Sequence[int]], adapters: AdapterSet = NO_ADAPTERS
    ) -> list[list[float]]:
        """See Engine."""
        for tokens in inputs:
            self._check(len(tokens))
        if record := current_record.get():
            record.model = self._model
            record.prompt_tokens = sum(map(len, inputs))
        return await self._engine.embed(inputs, adapters)

    def _check(self, n_tokens: int) -> None:
        if self._most is not None and n_tokens > self._most:
            raise context_error(n_tokens, self._most, "shorten it")


class _MeasuredStream:
    """Times an answer's events on their way, and counts its end once."""

    def __init__(
        self,
        stream: TokenStream,
        metrics: Metrics,
        record: RequestRecord | None,
        live: LiveRequest,
        ended: Callable[[LiveRequest], None],
    ) -> None:
        self._stream, self._metrics, self._record = stream, metrics, record
        self._live, self._ended = live, ended
        self._start = time.perf_counter()
        self._cancelled = self._closed = False
        self._n_read = 0  # tokens before it was cancelled: what came after is nobody's answer

    def cancel(self) -> None:
        """See TokenStream."""
        self._cancelled = True
        self._stream.cancel()

    def close(self) -> None:
        """Count an answer that has not ended as cancelled, and end the engine's work."""
        if not self._closed:
            self.cancel()
            self._end("cancelled")

    async def __aiter__(self) -> AsyncIterator[Event]:
        clock, previous = time.perf_counter, 0.0
        observe = self._metrics.observe_next_token
        async for event in self._stream:
            self._live.see(event)
            if isinstance(event, Token):
                self._n_read += not self._cancelled
                now = clock()
                if previous:
                    observe(now - previous)
                else:
                    self._first_token(now - self._start)
                previous = now
            elif isinstance(event, Done):
                self._done(event)
            elif isinstance(event, Failed):
                self._end("error")
            yield event

    def _first_token(self, seconds: float) -> None:
        self._metrics.observe_first_token(seconds)
        if self._record and self._record.ttft_s is None:
            self._record.ttft_s = seconds

    def _done(self, done: Done) -> None:
        """Count the end. An answer that its reader cancelled, and read on, met a stop string."""
        met_stop = done.reason == "cancelled" and self._cancelled
        self._end("stop" if met_stop else done.reason, done)

    def _end(self, reason: str, done: Done | None = None) -> None:
        if self._closed:
            return
        self._closed = True
        self._ended(self._live)
        timings = done.timings if done else None
        self._metrics.observe_answer(reason, time.perf_counter() - self._start, timings)
        if record := self._record:
            record.finish_reason = reason
            record.completion_tokens = (record.completion_tokens or 0) + self._n_read
            if timings:
                record.cached_tokens = (record.cached_tokens or 0) + timings.cached_tokens
