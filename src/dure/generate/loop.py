"""The engine's loop: requests in, steps of the model, events out.

Knows how scheduler, executor, samplers and the store of prefixes work together.
Refuses to know processes, HTTP and text.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from dure.engine.executor import Batch, Executor, StepStats, TopK, nothing
from dure.engine.kv import Clear, Copy, Forget, KvOp, Swap
from dure.errors import DureError, ModelError
from dure.generate.answers import Answer, Totals, timings_of
from dure.generate.checkpoints import Checkpoints
from dure.generate.prefix_store import PrefixStore
from dure.generate.request import (
    Done,
    Embedded,
    EngineStats,
    Event,
    Failed,
    FinishReason,
    Progress,
    Request,
    Token,
    check_tokens,
)
from dure.generate.sampling import GrammarEnd, Sampler
from dure.generate.scheduler.scheduler import (
    Action,
    Drop,
    Load,
    Running,
    Scheduler,
    SchedulerLimits,
    Store,
    Work,
)
from dure.generate.speculative.proposer import Guessing
from dure.model.vocabulary import Vocabulary

__all__ = ["EngineLoop"]

STEP_S = 0.4  # of a long prompt beside answers that run: their next tokens wait for it
SHORT_S = 1.0  # a prompt that takes no longer is not drawn out
LEAST_CHUNK = 32
ENOUGH_STEPS = 200  # to say how fast a rank is
NOTHING = np.zeros(0, np.int32)


class EngineLoop:
    """Answers many requests on one executor. Not thread-safe.

    store: where prefixes go that have no room in the KV cache, if anywhere; store_tokens: how many.
    checkpoints: when an answer that goes on is stored as well. pass_tokens: see SchedulerLimits.
    guessing: what is guessed ahead; None guesses nothing.
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
        checkpoints: Checkpoints | None = None,
        guessing: Guessing | None = None,
        pass_tokens: int = 0,
    ) -> None:
        info = executor.info
        self._guessing = guessing if info.can_forget else None
        self._executor, self._vocabulary, self._pooling = executor, vocabulary, pooling
        self._store, self._checkpoints = store, checkpoints
        self._scheduler = Scheduler(
            SchedulerLimits(
                info.n_sequences,
                info.n_ctx,
                info.n_batch,
                store_tokens if store is not None else 0,
                info.can_forget,
                pass_tokens,
            )
        )
        for key, tokens in store.scan() if store is not None else ():
            self._scheduler.know_stored(key, tokens)
        self._answers: dict[str, Answer] = {}
        self._kv: list[KvOp] = [Clear()]  # to be done at the beginning of the next step
        self._prefill_per_s = 0.0
        self._events: list[Event] = []
        self._totals = Totals(info.n_ranks)

    # ------------------------------------------------------------ requests

    def submit(self, request: Request) -> None:
        """Begin a request; what is wrong with it comes as an event."""
        try:
            check_tokens(request, self._executor.info.n_vocab)
            self._scheduler.add(request)
        except DureError as error:
            self._fail(request.id, error)
            return
        self._answers[request.id] = Answer(request, time.perf_counter())

    def cancel(self, request_id: str) -> None:
        """End a request early; Done("cancelled") is its last event."""
        was = self._scheduler.cancel(request_id)
        if was is None:
            return
        answer = self._leave(request_id)
        running = was if isinstance(was, Running) else None
        self._events.append(Done(request_id, "cancelled", timings_of(answer, running)))

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._answers or self._events)

    def stats(self, peak_bytes: tuple[int, ...] = ()) -> EngineStats:
        """Figures since the loop began. peak_bytes: of each rank, which it does not know itself."""
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
            bytes_sent=tuple(totals.bytes_sent.tolist()),
            peak_bytes=peak_bytes,
            sequences_held=scheduler.n_held,
        )

    def decoding_s(self) -> tuple[float, ...]:
        """Mean seconds that each rank computes in a step without prompts; () before there were enough."""
        n = self._totals.decodings
        return tuple((self._totals.decoding_s / n).tolist()) if n >= ENOUGH_STEPS else ()

    def persist(self) -> None:
        """Store every sequence that no request runs in and that is worth it."""
        for action in self._scheduler.unsaved():
            self._do(action)

    # ------------------------------------------------------------ one step

    def admit(self) -> list[Event]:
        """Admit what waits, as `step` does, and tell of it before anything is computed."""
        self._admit()
        return self._take_events()

    def step(self, meanwhile: Callable[[], None] = nothing) -> list[Event]:
        """Admit what waits, compute one step, and tell what came of it.

        meanwhile: is called while the step is computed, if one is; see `Executor.step`.
        """
        self._admit()
        embeds = [r for r in self._scheduler.running if r.request.embed]
        if embeds:
            self._embed(embeds[0])
        if work := self._scheduler.next_work(*self._chunk()):
            self._compute(self._with_drafts(work), meanwhile)
        self._do_due()
        self._checkpoint()
        return self._take_events()

    def _checkpoint(self) -> None:
        """Store an answer that would take long to compute again, should this be the end of the engine."""
        if self._checkpoints is None or not (rate := self._tokens_per_s()):
            return
        for running in self._scheduler.running:
            n_new = self._scheduler.n_unsaved(running)
            start = time.perf_counter()
            if self._checkpoints.is_due(n_new, running.n_cached, rate, start):
                for action in self._scheduler.save(running):
                    self._do(action)
                now = time.perf_counter()
                self._checkpoints.took(now - start, running.n_cached, now)

    def _tokens_per_s(self) -> float:
        """How fast tokens are computed again; 0 where that is not known yet."""
        totals = self._totals
        return self._prefill_per_s or totals.generated_tokens / (totals.step_s or 1.0)

    def _admit(self) -> None:
        self._do_due()
        for running, actions in self._scheduler.admit():
            self._begin(running, actions)
        for swap in self._scheduler.side_by_side():
            self._do(swap)

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _chunk(self) -> tuple[int, int]:
        """How many tokens of long prompts a step may hold beside answers, and what a short prompt is."""
        chunk, short = (int(self._prefill_per_s * seconds) for seconds in (STEP_S, SHORT_S))
        return max(LEAST_CHUNK, chunk), short

    def _begin(self, running: Running, actions: Sequence[Action]) -> None:
        answer = self._answers[running.request.id]
        answer.admitted = time.perf_counter()
        if not all([self._do(action) for action in actions]):  # noqa: C419  # each is done
            self._scheduler.lost(running)
        answer.n_reused = running.n_reused
        if running.request.embed:
            return
        try:
            answer.sampler = self._sampler(running)
            if self._guessing is not None and answer.sampler.can_draft:
                self._guessing.begin(answer, running.tokens)
        except DureError as error:
            self._end(running)
            self._fail(running.request.id, error)
            return
        self._tell_progress(running, answer)

    def _sampler(self, running: Running) -> Sampler:
        request = running.request
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

    def _with_drafts(self, work: Sequence[Work]) -> Sequence[Work]:
        if self._guessing is None:
            return work
        return self._guessing.with_drafts(work, self._answers, self._executor.info)

    # ------------------------------------------------------------ computing

    def _compute(self, work: Sequence[Work], meanwhile: Callable[[], None]) -> None:
        outputs = [w for w in work if w.output and w.running.request.max_tokens != 0]
        samplers = [self._sampler_of(w.running) for w in outputs]
        changes = [
            sampler.adjustment(w.drafts[:n])
            for w, sampler in zip(outputs, samplers, strict=True)
            for n in range(len(w.drafts) + 1)
        ]
        n_best = max((sampler.n_best for sampler in samplers), default=1)
        sizes = [len(w.tokens) + len(w.drafts) for w in work]
        start = time.perf_counter()
        result = self._executor.step(
            Batch(
                np.concatenate([np.array(w.tokens + w.drafts, np.int32) for w in work]),
                np.concatenate([_positions(w) for w in work]),
                np.repeat(np.array([w.running.slot for w in work], np.int32), sizes),
                _rows_of(work, outputs),
                min(n_best, self._executor.info.n_vocab),
                self._take_kv(),
                changes if any(changes) else (),
            ),
            meanwhile,
        )
        self._measure(work, time.perf_counter() - start, result.stats)
        in_prefill = [w.running for w in work if w.running.in_prefill]
        self._scheduler.advance(work)
        for running in in_prefill:
            self._tell_progress(running, self._answers[running.request.id])
        row, stats = 0, result.stats
        means = [float(np.mean(x)) for x in (stats.compute_s, stats.sync_s, stats.bytes_sent)]
        for w, sampler in zip(outputs, samplers, strict=True):
            self._clock(self._answers[w.running.request.id], *means)
            self._go_on(w, sampler, result.rows, row)
            row += len(w.drafts) + 1
        for w in work:
            if w.output and w.running.request.max_tokens == 0:
                self._finish(w.running, "length")

    def _go_on(self, work: Work, sampler: Sampler, rows: Sequence[TopK], first: int) -> None:
        """Choose the next token, and those after it for as long as the drafts are what is chosen."""
        running, n_right = work.running, 0
        answer = self._answers[running.request.id]
        for row, best in enumerate(rows[first : first + len(work.drafts) + 1], first):
            token = self._choose(running, sampler, best, row)
            if token is None:
                break
            answer.learn(token)
            is_right = work.drafts[n_right : n_right + 1] == (token,)
            n_right += is_right
            if self._append(running, token, best, row, in_cache=is_right) or not is_right:
                break
        answer.settle(len(work.drafts), n_right)
        self._scheduler.settle(work, n_right)

    def _sampler_of(self, running: Running) -> Sampler:
        sampler = self._answers[running.request.id].sampler
        assert sampler is not None, "made when the request was admitted"
        return sampler

    def _clock(self, answer: Answer, compute_s: float, sync_s: float, bytes_sent: float) -> None:
        if answer.first:
            answer.compute_s += compute_s
            answer.sync_s += sync_s
            answer.bytes_sent += bytes_sent
        else:
            answer.first = time.perf_counter()

    def _choose(self, running: Running, sampler: Sampler, best: TopK, row: int) -> int | None:
        """The next token, or None where the answer ends before it."""
        request = running.request
        try:
            token = sampler.choose(best, lambda: self._executor.logits(row))
        except GrammarEnd:
            self._finish(running, "stop")
            return None
        except ModelError as error:
            self._end(running)
            self._fail(request.id, error)
            return None
        if self._is_end(request, token):
            self._finish(running, "stop", token)
            return None
        sampler.accept(token)
        return token

    def _append(
        self, running: Running, token: int, best: TopK, row: int, *, in_cache: bool
    ) -> bool:
        """The answer goes on with a token; whether that was its last."""
        request = running.request
        self._events.append(self._token(request, token, best, row))
        self._totals.generated_tokens += 1
        goes_on = self._scheduler.append(running, token, in_cache=in_cache)
        enough = request.max_tokens is not None and running.n_answered >= request.max_tokens
        if enough or not goes_on:
            self._finish(running, "length")
        return enough or not goes_on

    def _is_end(self, request: Request, token: int) -> bool:
        return token in request.end_tokens or (
            not request.ignore_eos and self._vocabulary.is_end(token)
        )

    def _token(self, request: Request, token: int, best: TopK, row: int) -> Token:
        if request.n_logprobs is None:
            return Token(request.id, token)
        ids, logprobs = best.ids.tolist(), (best.logits - best.log_sum_exp).tolist()
        if token in ids:
            own = logprobs[ids.index(token)]
        else:  # it was chosen from the whole vocabulary
            own = float(self._executor.logits(row)[token]) - best.log_sum_exp
        top = tuple(zip(ids, logprobs, strict=True))[: request.n_logprobs]
        return Token(request.id, token, own, top)

    # ------------------------------------------------------------ ends

    def _finish(self, running: Running, reason: FinishReason, end_token: int | None = None) -> None:
        answer = self._end(running)
        timings = timings_of(answer, running)
        self._totals.finish(timings)
        self._events.append(Done(running.request.id, reason, timings, end_token))

    def _end(self, running: Running) -> Answer:
        self._scheduler.finish(running)
        return self._leave(running.request.id)

    def _leave(self, request_id: str) -> Answer:
        if self._guessing is not None:
            self._guessing.ended(request_id)
        return self._answers.pop(request_id)

    def _fail(self, request_id: str, error: DureError) -> None:
        if request_id in self._answers:
            self._leave(request_id)
        self._events.append(Failed(request_id, error.record()))

    def _tell_progress(self, running: Running, answer: Answer) -> None:
        elapsed_s = time.perf_counter() - answer.admitted
        self._events.append(
            Progress(
                running.request.id,
                running.n_prompt,
                answer.n_reused,
                min(running.n_cached, running.n_prompt),
                elapsed_s,
            )
        )

    def _measure(self, work: Sequence[Work], elapsed_s: float, stats: StepStats) -> None:
        n_prefill = sum(len(w.tokens) for w in work if w.running.in_prefill)
        self._totals.step(elapsed_s, n_prefill, stats)
        if self._guessing is not None and not n_prefill:
            self._guessing.drafting.costs.saw(sum(1 + len(w.drafts) for w in work), elapsed_s)
        if n_prefill >= LEAST_CHUNK:
            rate = n_prefill / elapsed_s
            self._prefill_per_s = (
                0.7 * self._prefill_per_s + 0.3 * rate if self._prefill_per_s else rate
            )

    # ------------------------------------------------------------ embeddings

    def _embed(self, running: Running) -> None:
        """Compute one chunk of a prompt whose embedding is wanted."""
        answer = self._answers[running.request.id]
        start, stop, wanted = self._embedding_chunk(running)
        tokens = running.tokens[start:stop]
        result = self._executor.step(
            Batch(
                np.array(tokens, np.int32),
                np.arange(start, stop, dtype=np.int32),
                np.full(len(tokens), running.slot, np.int32),
                range(len(tokens)) if wanted else (),
                top_k=1,
                kv=self._take_kv(),
                embed=wanted,
            )
        )
        self._scheduler.advance([Work(running, start, tuple(tokens), output=False)])
        if result.embeddings is not None:
            total = result.embeddings.sum(axis=0, dtype=np.float32)
            answer.embedding = total if answer.embedding is None else answer.embedding + total
        if answer.embedding is not None and (stop == running.n_prompt or self._pooling == "cls"):
            values = answer.embedding / np.float32(stop if self._pooling == "mean" else 1)
            self._end(running)
            self._events.append(Embedded(running.request.id, values.tobytes()))

    def _embedding_chunk(self, running: Running) -> tuple[int, int, bool]:
        """The next tokens, half-open, and whether their hidden states are wanted.

        Where they are, llama.cpp gives them for every token of a step, whose outputs are limited.
        """
        start, n, info = running.n_cached, running.n_prompt, self._executor.info
        if self._pooling == "mean":
            return start, min(start + info.n_outputs, n), True
        if self._pooling == "cls":
            return 0, 1, True
        if start < n - 1:
            return start, min(start + info.n_batch, n - 1), False
        return start, n, True

    # ------------------------------------------------------------ the KV cache

    def _do_due(self) -> None:
        for action in self._scheduler.due():
            self._do(action)

    def _do(self, action: Action) -> bool:
        """False where a prefix is not where it should be."""
        match action:
            case Forget() | Clear() | Copy() | Swap():
                self._kv.append(action)
            case Store():
                self._flush()
                if self._store is not None and not self._store.save(action):
                    self._scheduler.not_stored(action.key)
            case Load():
                return self._load(action)
            case Drop():
                if self._store is not None:
                    self._store.drop(action)
        return True

    def _load(self, load: Load) -> bool:
        self._flush()
        if self._store is None or not self._store.load(load):
            return False
        if load.n < load.n_stored:
            self._kv.append(Forget(load.slot, load.n))
        return True

    def _take_kv(self) -> list[KvOp]:
        kv, self._kv = self._kv, []
        return kv

    def _flush(self) -> None:
        """Have changes of the KV cache made now, without tokens."""
        if self._kv:
            self._executor.step(Batch(NOTHING, NOTHING, NOTHING, top_k=1, kv=self._take_kv()))


def _positions(work: Work) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.arange(work.start, work.start + len(work.tokens) + len(work.drafts), dtype=np.int32)


def _rows_of(work: Sequence[Work], outputs: Sequence[Work]) -> list[int]:
    """The places in the batch of the last token, and of the drafts, of each of `outputs`."""
    wanted, places, n = deque(outputs), list[int](), 0
    for w in work:
        n += len(w.tokens) + len(w.drafts)
        if wanted and wanted[0] is w:
            places += range(n - len(w.drafts) - 1, n)
            wanted.popleft()
    return places
