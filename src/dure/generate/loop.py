"""The engine's loop: requests in, steps of the model, events out.

Knows in which order scheduler, executor, answers and the store of prefixes work together.
Refuses to know processes, HTTP and text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from dure.engine.executor import Executor, nothing
from dure.errors import DureError
from dure.generate.answers import ActiveAnswer, ActiveAnswers, LoopTotals
from dure.generate.checkpoints import Checkpoints
from dure.generate.choosing import TOKEN_S, SlowWork, Work
from dure.generate.embedding_loop import EmbeddingLoop
from dure.generate.kv_actions import KvActions
from dure.generate.prefix_store import PrefixStore
from dure.generate.prompt_reader import PromptReader
from dure.generate.request import EngineStats, Event, Request, check_adapters, check_tokens
from dure.generate.sampling import Sampler
from dure.generate.scheduler import Action, RunningRequest, Scheduler, SchedulerLimits
from dure.generate.speculative.proposer import Proposer
from dure.generate.step import StepRunner
from dure.generate.step_notes import StepNote
from dure.model.context import n_kept_states
from dure.model.vocabulary import Vocabulary

__all__ = ["EngineLoop"]

MIN_DECODE_STEPS = 200  # to say how fast a rank is
IDLE_S = (
    0.002  # to wait for a grammar if there is nothing else to do, before requests are looked for
)


class EngineLoop:
    """Answers many requests on one executor. Not thread-safe.

    pooling: see EmbeddingLoop. store: where prefixes go that have no room in the KV cache, if anywhere;
    store_tokens: how many tokens of them. checkpoints: when an answer that goes on is stored as well.
    proposer: proposes draft tokens; None proposes none. pass_tokens, stored_adapters: see SchedulerLimits.
    grammar_s: how long a grammar may take for a token, before its answer fails.
    Raises EngineError, from `step`, when the executor has failed; it is then of no more use.
    """

    def __init__(
        self,
        executor: Executor,
        vocabulary: Vocabulary,
        *,
        pooling: str = "last",
        store: PrefixStore | None = None,
        store_tokens: int = 0,
        stored_adapters: int | None = None,
        checkpoints: Checkpoints | None = None,
        proposer: Proposer | None = None,
        pass_tokens: int = 0,
        grammar_s: float = TOKEN_S,
    ) -> None:
        info = executor.info
        self._executor, self._vocabulary, self._checkpoints = executor, vocabulary, checkpoints
        self._proposer = proposer if info.can_forget else None
        keeps_all = info.can_forget and not info.n_window
        self._scheduler = Scheduler(
            SchedulerLimits(
                n_slots=info.n_sequences,
                n_ctx=info.n_ctx,
                n_batch=info.n_batch,
                store_tokens=store_tokens if store is not None else 0,
                can_forget=info.can_forget,
                pass_tokens=pass_tokens,
                n_window=info.n_window,
                n_states=0 if keeps_all else n_kept_states(info.n_sequences),
                stored_adapters=stored_adapters,
            )
        )
        for key, tokens in store.scan() if store is not None else ():
            self._scheduler.add_stored(key, tokens)
        self._totals = LoopTotals(info.n_ranks)
        self._kv = KvActions(executor, self._scheduler, store)
        self._answers = ActiveAnswers(self._scheduler, self._proposer, self._totals)
        self._embeddings = EmbeddingLoop(
            executor, self._scheduler, self._answers, self._kv, pooling
        )
        self._prompts = PromptReader(executor, self._scheduler, self._answers, self._kv)
        self._slow = SlowWork(grammar_s)
        self._steps = StepRunner(
            executor,
            vocabulary,
            self._scheduler,
            self._answers,
            self._kv,
            self._totals,
            self._proposer,
            self._slow,
        )

    # ------------------------------------------------------------ requests

    def submit(self, request: Request) -> None:
        """Begin a request; what is wrong with it comes as an event."""
        try:
            check_tokens(request, self._executor.info.n_vocab)
            check_adapters(request, self._executor.info.adapters.loaded)
            self._scheduler.add(request)
        except DureError as error:
            self._answers.fail(request.id, error)
            return
        self._answers.begin(request)

    def cancel(self, request_id: str) -> None:
        """End a request early; Done("cancelled") is its last event."""
        self._answers.cancel(request_id)
        self._slow.cancel(request_id)

    @property
    def busy(self) -> bool:
        """Tell whether a step would do anything."""
        return self._answers.busy

    def uses_adapter(self, number: int) -> bool:
        """Tell whether a request that runs or waits is computed with an adapter."""
        return self._answers.use_adapter(number)

    # ------------------------------------------------------------ one step

    def step(self, meanwhile: Callable[[], None] = nothing) -> list[Event]:
        """Admit what waits, compute one step, and return what came of it.

        meanwhile: is called while the step is computed, if one is; see `Executor.step`.
        """
        self._slow.advance()
        self._admit()
        running = self._scheduler.running
        if embeds := [r for r in running if r.request.embed]:
            self._embeddings.step(embeds[0])
        if to_read := [r for r in running if r.n_to_read]:
            self._prompts.step(min(to_read, key=lambda r: r.turn))
        if step := self._scheduler.next_step(self._steps.limits()):
            self._steps.run(step, meanwhile)
        elif not (embeds or to_read):
            self._slow.advance(IDLE_S)
        self._kv.do_all(self._scheduler.due())
        self._checkpoint()
        return self._answers.take_events()

    def admit(self) -> list[Event]:
        """Admit what waits, as `step` does, and return the events before anything is computed."""
        self._admit()
        return self._answers.take_events()

    def _admit(self) -> None:
        self._kv.do_all(self._scheduler.due())
        for running, actions in self._scheduler.admit(self._slow.late()):
            self._begin(running, actions)
        self._kv.do_all(self._scheduler.make_neighbours())

    def _begin(self, running: RunningRequest, actions: Sequence[Action]) -> None:
        answer = self._answers[running.request.id]
        if not self._kv.do_all(actions):
            self._scheduler.recompute(running)
        if answer.admitted_at:  # it was paused
            return
        answer.admitted_at = time.perf_counter()
        answer.n_reused = running.n_reused
        if running.request.embed or running.request.prompt_logits:
            return
        self._answers.emit_progress(running)
        if running.request.grammar is None:
            self._set_sampler(running, self._sampler(running.request))
            return
        running.is_choosing = True
        self._slow.begin(
            Work(
                running.request,
                lambda: self._sampler(running.request),
                lambda future: self._grammar_is_read(running, answer, future),
                1 + len(running.request.answered),
            )
        )

    def _grammar_is_read(
        self, running: RunningRequest, answer: ActiveAnswer, future: Future[Sampler]
    ) -> None:
        if not self._answers.is_active(answer):
            return
        try:
            self._set_sampler(running, future.result())
        except DureError as error:
            self._answers.fail(running.request.id, error, running)
        self._scheduler.chosen(running)

    def _set_sampler(self, running: RunningRequest, sampler: Sampler) -> None:
        self._answers[running.request.id].sampler = sampler
        if self._proposer is not None and sampler.can_draft:
            has_seed = running.request.sampling.seed is not None
            self._proposer.begin(running.request.id, running.tokens, has_seed=has_seed)

    def _sampler(self, request: Request) -> Sampler:
        sampler = Sampler(
            request.sampling,
            self._vocabulary,
            context=request.prompt,
            grammar=request.grammar,
            forbidden=self._vocabulary.ends if request.ignore_eos else (),
            n_logprobs=request.n_logprobs,
            n_vocab=self._executor.info.n_vocab,
        )
        for token in request.answered:
            sampler.accept(token)
        return sampler

    # ------------------------------------------------------------ storing

    def persist(self) -> None:
        """Store every idle slot that is worth it."""
        for action in self._scheduler.store_idle():
            self._kv.do(action)

    def _checkpoint(self) -> None:
        """Store the answers that would take long to compute again, should the engine end now."""
        if self._checkpoints is None or not (rate := self._tokens_per_s()):
            return
        for running in self._scheduler.running:
            n_new = self._scheduler.n_unstored(running)
            start = time.perf_counter()
            if self._checkpoints.is_due(n_new, running.n_cached, rate, start):
                self._kv.do_all(self._scheduler.store(running))
                now = time.perf_counter()
                self._checkpoints.observe(now - start, running.n_cached, now)

    def _tokens_per_s(self) -> float:
        """Return how fast tokens are computed again; 0 until that is known."""
        totals = self._totals
        return self._steps.prefill_tokens_per_s or totals.generated_tokens / (totals.step_s or 1.0)

    # ------------------------------------------------------------ figures

    def stats(self, peak_bytes: tuple[int, ...] = ()) -> EngineStats:
        """Return figures since the loop began. peak_bytes: of each rank, which it does not know itself."""
        scheduler, info, totals = self._scheduler, self._executor.info, self._totals
        return EngineStats(
            running=len(scheduler.running),
            waiting=scheduler.n_waiting,
            kv_used=scheduler.kv_used,
            kv_kept=scheduler.kv_kept,
            kv_total=info.n_ctx * info.n_sequences,
            prompt_tokens=totals.prompt_tokens,
            prompt_s=totals.prompt_s,
            generated_tokens=totals.generated_tokens,
            generate_s=totals.generate_s,
            cache_queries=scheduler.cache_queries,
            cache_hits=scheduler.cache_hits,
            steps=totals.steps,
            step_s=totals.step_s,
            drafted=totals.drafted,
            accepted=totals.accepted,
            sync_s=tuple(totals.sync_s.tolist()),
            compute_s=tuple(totals.compute_s.tolist()),
            lost_s=tuple(totals.lost_s.tolist()),
            bytes_sent=tuple(totals.bytes_sent.tolist()),
            peak_bytes=peak_bytes,
            threads=totals.threads(info.threads),
            sequences_held=scheduler.n_held,
            owners=scheduler.owner_stats(),
        )

    def watch(self, *, on: bool) -> None:
        """Note every step from now on, for `take_notes`, or no more."""
        self._totals.notes = [] if on else None

    def take_notes(self) -> list[StepNote]:
        """Return the notes of the steps since the last call, oldest first."""
        notes = self._totals.notes
        if not notes:
            return []
        self._totals.notes = []
        return notes

    def decode_compute_s(self) -> tuple[float, ...]:
        """Return each rank's mean seconds of compute in a decode step; () before there were enough."""
        n = self._totals.n_decode_steps
        enough = n >= MIN_DECODE_STEPS
        return tuple((self._totals.decode_compute_s / n).tolist()) if enough else ()
