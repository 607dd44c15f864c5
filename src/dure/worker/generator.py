"""Runs the engine of a generative model: its start, its steps, and its work when idle."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from dure.deploy.start import start_model
from dure.errors import ClusterError, DureError
from dure.generate.checkpoints import Checkpoints
from dure.generate.loop import EngineLoop
from dure.generate.prefix_store import PrefixStore
from dure.generate.request import Event, Token
from dure.model.adapter import open_adapter
from dure.model.gguf import GgufFile, open_gguf
from dure.model.vocabulary import Vocabulary
from dure.plan.memory import tokens_moved_in_a_pass
from dure.worker import protocol as msg
from dure.worker.connection import SupervisorConnection
from dure.worker.engine_adapters import EngineAdapters
from dure.worker.model_info import model_info, places_of
from dure.worker.proposing import start_proposer
from dure.worker.step_tracer import StepTracer

__all__ = ["Generator"]

STATS_EVERY_S = 0.5
IDLE_S = 0.5  # to wait for a message when idle
CHECK_RANKS_EVERY_S = 5.0  # when idle, to notice a dead rank before a request needs it
PERSIST_AFTER_S = 2.0  # of idling
QUIET_S = 3.0  # of idling, before the engine restarts with a machine that was missing
_POOLING = {0: "last", 1: "mean", 2: "cls", 3: "last"}  # llama.cpp's llama_pooling_type


class Generator:
    """Runs a generative model until its supervisor stops it."""

    def __init__(self, options: msg.EngineOptions, supervisor: SupervisorConnection) -> None:
        self._options, self._supervisor = options, supervisor
        with open_gguf(Path(options.model)) as gguf:
            self._vocabulary = Vocabulary(gguf)
            self._deployment = start_model(gguf, options.run, supervisor, options.restart)
            self._executor = self._deployment.executor
            self._store = self._open_store(gguf)
            n_ctx = self._executor.info.n_ctx
            self._proposer = start_proposer(
                options.draft, gguf, self._vocabulary, options.run, n_ctx, supervisor
            )
            self._loop = self._new_loop(gguf)
            self._adapters = EngineAdapters(gguf.paths[0], self._deployment, self._loop, supervisor)
            self._tracer = StepTracer(self._loop, self._executor, supervisor)
            for adapter in options.adapters:
                self._adapters.load(adapter)
            info = model_info(gguf, self._executor.info, places_of(self._deployment))
        self._peak_bytes: tuple[int, ...] = ()
        self._unsent: list[Event] = []
        self._stats_at = self._worked_at = self._checked_at = time.monotonic()
        self._is_idle, self._is_persisted = False, not options.persistent
        self._has_learned = False
        self._replays_since = 0.0
        supervisor.send(msg.Ready(info))

    def _open_store(self, gguf: GgufFile) -> PrefixStore | None:
        if not self._options.store or not sum(self._deployment.kv_token_bytes):
            return None
        name = f"{gguf.fingerprint[:16]}-{self._deployment.cut_name}{self._adapters_name()}"
        run, store = self._options.run, self._options.store
        if run.cluster and run.job:  # on a node, another job with the same model has its own
            kept = hashlib.sha256(store.encode()).hexdigest()[:8]
            name += f"-{kept if self._options.persistent else run.job.id}"
        return PrefixStore.alone(Path(store), name, self._executor)

    def _adapters_name(self) -> str:
        """Return what the store's name has of the adapters: the numbers of its prefixes mean these."""
        digest = hashlib.sha256()
        for file in self._options.run.lora:
            with open_adapter(Path(file.path)) as adapter:
                digest.update(adapter.fingerprint.encode())
        return f"-{digest.hexdigest()[:8]}" if self._options.run.lora else ""

    def _new_loop(self, gguf: GgufFile) -> EngineLoop:
        options, running = self._options, self._deployment
        pooling = _POOLING.get(gguf.int(f"{gguf.architecture}.pooling_type", 3), "last")
        return EngineLoop(
            self._executor,
            self._vocabulary,
            pooling=options.pooling or pooling,
            store=self._store,
            store_tokens=self._store_tokens(),
            stored_adapters=len(options.run.lora),
            checkpoints=Checkpoints(options.checkpoint_s) if options.checkpoint_s else None,
            proposer=self._proposer,
            pass_tokens=tokens_moved_in_a_pass(running.weights_bytes, sum(running.kv_token_bytes)),
        )

    def _store_tokens(self) -> int:
        """Return how many tokens may be stored: at most half of any rank's room, and the user's limit."""
        if self._store is None:
            return 0
        each = self._deployment.kv_token_bytes
        room = zip(self._store.free_bytes(), each, strict=True)
        fits = min(free // 2 // bytes_ for free, bytes_ in room if bytes_)
        here = each[0] if self._options.run.cluster else sum(each)
        return min(fits, self._options.store_bytes // here)

    def run(self) -> None:
        """Answer requests until Stop."""
        while True:
            for message in self._supervisor.inbox(IDLE_S if self._is_idle else None):
                if not self._take(message):
                    return
            self._adapters.advance()
            if self._loop.busy:
                self._work()
            else:
                self._idle()

    def _work(self) -> None:
        """Compute one step, and send the last one's events meanwhile."""
        self._unsent += self._loop.admit()
        try:
            events = self._loop.step(self._send_events)
            self._tracer.stepped()
        finally:
            self._send_events()
        self._unsent = events
        if not self._loop.busy:
            self._send_events()
        if self._replays_since and any(isinstance(event, Token) for event in events):
            self._record_replay()
        self._worked_at = time.monotonic()
        self._is_idle, self._is_persisted = False, not self._options.persistent
        if self._worked_at - self._stats_at > STATS_EVERY_S:
            self._send_stats()

    def _record_replay(self) -> None:
        """Record the cost of resuming the previous engine's answers."""
        stats = self._loop.stats()
        facts = {
            "replay_s": round(time.monotonic() - self._replays_since, 2),
            "computed_tokens": stats.prompt_tokens,
            "cached_tokens": stats.cache_hits,
        }
        self._deployment.record("replayed", facts)
        self._replays_since = 0.0

    def _idle(self) -> None:
        """Send statistics, check the ranks, learn speeds and persist prefixes, each when due."""
        now = time.monotonic()
        if not self._is_idle or now - self._checked_at > CHECK_RANKS_EVERY_S:
            self._checked_at = now
            self._peak_bytes = tuple(rank.peak_bytes for rank in self._executor.facts())
        if not self._is_idle:
            self._is_idle = True
            self._send_stats()
        if not self._has_learned and (seconds := self._loop.decode_compute_s()):
            self._deployment.learn(seconds)
            self._has_learned = True
        if now - self._worked_at > QUIET_S and (why := self._deployment.restart_reason()):
            raise ClusterError(why)
        if not self._is_persisted and now - self._worked_at > PERSIST_AFTER_S:
            self._loop.persist()
            self._is_persisted = True  # even if it failed: a full disk stays full

    def _send_stats(self) -> None:
        self._stats_at = time.monotonic()
        self._supervisor.send(msg.Stats(self._loop.stats(self._peak_bytes)))
        self._tracer.send()

    def _take(self, message: msg.ToWorker) -> bool:
        match message:
            case msg.Submit(request):
                if request.answered and not self._replays_since:
                    self._replays_since = time.monotonic()
                self._loop.submit(request)
            case msg.Cancel(request_id):
                self._loop.cancel(request_id)
            case msg.AttachAdapter(adapter):
                self._adapters.load(adapter)
            case msg.DetachAdapter(number):
                self._adapters.drop(number)
            case msg.Watch(on):
                self._tracer.watch(on=on)
            case msg.TraceToken():
                self._tracer.trace()
            case msg.EndTrace():
                self._tracer.end_trace()
            case _:
                return False
        return True

    def _send_events(self) -> None:
        events, self._unsent = self._unsent, []
        if events:
            self._supervisor.send(msg.Events(events))

    def finish(self) -> None:
        """Save the prefixes if they are persistent, else delete them."""
        if self._store is None:
            return
        with suppress(DureError):  # the ranks may be gone
            if self._options.persistent:
                self._loop.persist()
            else:
                self._store.clear()

    def close(self) -> None:
        """End the ranks."""
        if self._proposer is not None:
            self._proposer.close()
        self._executor.close()
