"""Computes one step: the scheduler's tokens as a batch, and the next tokens from its logits.

Knows how drafts are verified, and how an answer goes on and ends. Refuses to know which tokens a step
computes, and when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

import numpy as np

from dure.engine.executor import Adjustment, Batch, Executor, Floats, StepResult, StepStats
from dure.errors import DureError
from dure.generate.answers import ActiveAnswers, LoopTotals
from dure.generate.choosing import Choice, Choose, Chosen, SlowWork, chosen
from dure.generate.kv_actions import KvActions
from dure.generate.request import Request, Token
from dure.generate.sampling import Sampler
from dure.generate.scheduler import (
    PrefillLimits,
    PrefillSpeed,
    RunningRequest,
    Scheduler,
    StepTokens,
)
from dure.generate.speculative.budget import StepCosts
from dure.generate.speculative.proposer import Proposer
from dure.model.vocabulary import Vocabulary

__all__ = ["StepRunner"]

PATIENCE = 0.1  # of a step's time, that all wait for the choices of one
LEAST_PATIENCE_S = 0.002
LEAST_PART = 0.25  # of a step's time that its prompts take: what the answers take is an estimate


class StepRunner:
    """Runs the steps of one engine's loop. proposer: None proposes no draft tokens. slow: runs choices."""

    def __init__(
        self,
        executor: Executor,
        vocabulary: Vocabulary,
        scheduler: Scheduler,
        answers: ActiveAnswers,
        kv: KvActions,
        totals: LoopTotals,
        proposer: Proposer | None,
        slow: SlowWork,
    ) -> None:
        self._executor, self._vocabulary, self._scheduler = executor, vocabulary, scheduler
        self._slow = slow
        self._answers, self._kv, self._totals, self._proposer = answers, kv, totals, proposer
        self._prefill_speed = PrefillSpeed()
        self._costs = StepCosts() if proposer is None else proposer.budget.costs

    def limits(self) -> PrefillLimits:
        """Return how much of prompts the next step may compute.

        For prompts in the majority that is more, but not more than a step takes once they are answers too.
        """
        running = self._scheduler.running
        n_answers = sum(not r.in_prefill for r in running)
        n_prompts = len(running) - n_answers
        for_more = self._answers_s(n_answers) * n_prompts / max(1, n_answers)
        seconds = min(for_more, self._answers_s(len(running)))
        return self._prefill_speed.limits(max(self._answers_s(n_answers), seconds))

    @property
    def prefill_tokens_per_s(self) -> float:
        """How fast prompts are computed; 0 until measured."""
        return self._prefill_speed.alone

    def _answers_s(self, n_answers: int) -> float:
        return self._costs.seconds(n_answers) if n_answers and self._costs.is_known else 0.0

    def run(self, step: Sequence[StepTokens], meanwhile: Callable[[], None]) -> None:
        """Compute a step, and let its answers go on. meanwhile: see `Executor.step`."""
        if self._proposer is not None:
            step = self._proposer.with_drafts(step, self._executor.info)
        outputs = [s for s in step if s.needs_logits]
        samplers = [self._sampler(s.running) for s in outputs]
        start = time.perf_counter()
        result = self._executor.step(self._batch(step, outputs, samplers), meanwhile)
        elapsed_s = time.perf_counter() - start
        self._observe(step, elapsed_s, result.stats)
        self._advance(step)
        self._continue(outputs, samplers, result, elapsed_s)
        for s in step:
            if s.output and not s.needs_logits:
                self._answers.finish(s.running, "length")

    def _sampler(self, running: RunningRequest) -> Sampler:
        sampler = self._answers[running.request.id].sampler
        assert sampler is not None, "made when the request was admitted"
        return sampler

    def _batch(
        self,
        step: Sequence[StepTokens],
        outputs: Sequence[StepTokens],
        samplers: Sequence[Sampler],
    ) -> Batch:
        adjustments = _adjustments(outputs, samplers)
        n_best = max((sampler.n_best for sampler in samplers), default=1)
        slots = np.array([s.running.slot for s in step], np.int32)
        return Batch(
            np.concatenate([np.array(s.all_tokens, np.int32) for s in step]),
            np.concatenate([np.arange(s.start, s.stop, dtype=np.int32) for s in step]),
            np.repeat(slots, [s.n_tokens for s in step]),
            _output_rows(step),
            min(n_best, self._executor.info.n_vocab),
            self._kv.take(),
            adjustments if any(adjustments) else (),
            adapters=step[0].running.request.adapters,
        )

    def _observe(self, step: Sequence[StepTokens], elapsed_s: float, stats: StepStats) -> None:
        n_prefill = sum(len(s.tokens) for s in step if s.running.in_prefill)
        self._totals.add_step(elapsed_s, sum(s.n_tokens for s in step), n_prefill, stats)
        n_answers = sum(not s.running.in_prefill for s in step)
        if not n_prefill:
            self._costs.observe(sum(s.n_tokens for s in step), elapsed_s)
        elif n_answers:
            prefill_s = elapsed_s - self._answers_s(n_answers)
            self._prefill_speed.observe_beside(n_prefill, max(prefill_s, LEAST_PART * elapsed_s))
        else:
            self._prefill_speed.observe_alone(n_prefill, elapsed_s)

    def _advance(self, step: Sequence[StepTokens]) -> None:
        in_prefill = [s.running for s in step if s.running.in_prefill]
        self._scheduler.advance(step)
        for running in in_prefill:
            self._answers.emit_progress(running)

    # ------------------------------------------------------------ from logits to tokens

    def _continue(
        self,
        outputs: Sequence[StepTokens],
        samplers: Sequence[Sampler],
        result: StepResult,
        elapsed_s: float,
    ) -> None:
        """Let every answer go on with the tokens that its rows of logits give."""
        row, stats = 0, result.stats
        means = [float(np.mean(x)) for x in (stats.compute_s, stats.sync_s, stats.bytes_sent)]
        for s, sampler in zip(outputs, samplers, strict=True):
            self._answers[s.running.request.id].observe_step(*means)
            first, row = row, row + len(s.drafts) + 1
            choose = partial(
                chosen, s.running.request, sampler, result.rows[first:row], s.drafts, self._is_end
            )
            logits = partial(self._logits, first)
            if sampler.is_slow:
                self._choose_slowly(s, choose, logits)
            else:
                self._go_on(s, choose(logits))
        self._slow.advance(max(LEAST_PATIENCE_S, PATIENCE * elapsed_s))
        self._slow.provide()

    def _logits(self, first: int, row: int) -> Floats:
        return self._executor.logits(first + row)

    def _choose_slowly(
        self, s: StepTokens, choose: Choose, logits: Callable[[int], Floats]
    ) -> None:
        """Leave an answer out of the steps until its tokens are chosen."""
        answer, s.running.is_choosing = self._answers[s.running.request.id], True

        def done(future: Future[Chosen]) -> None:
            if self._answers.is_active(answer):
                self._go_on(s, _result(future))
                self._scheduler.chosen(s.running)

        request, n_rows = s.running.request, len(s.drafts) + 1
        self._slow.begin(Choice(request, choose, logits, n_rows, self._slow.ask, done))

    def _go_on(self, s: StepTokens, chosen_: Chosen) -> None:
        """Append the tokens that were chosen to an answer, or end it."""
        running, request_id = s.running, s.running.request.id
        answer = self._answers[request_id]
        answer.n_drafts += len(s.drafts)
        answer.n_accepted += chosen_.n_accepted
        self._scheduler.verify(s, chosen_.n_accepted)
        for i, event in enumerate(chosen_.tokens):
            if self._proposer is not None:
                self._proposer.observe_token(request_id, event.token)
            if self._append(running, event, in_cache=i < chosen_.n_accepted):
                return
        if chosen_.error is not None:
            self._answers.fail(request_id, chosen_.error, running)
        elif chosen_.is_end:
            self._answers.finish(running, "stop", chosen_.end_token)
        elif self._proposer is not None:
            self._proposer.observe_verified(request_id, len(s.drafts), chosen_.n_accepted)

    def _append(self, running: RunningRequest, event: Token, *, in_cache: bool) -> bool:
        """Append a token to an answer; tell whether it was the last."""
        request = running.request
        self._answers.emit(event)
        self._totals.generated_tokens += 1
        has_room = self._scheduler.append(running, event.token, in_cache=in_cache)
        is_enough = request.max_tokens is not None and running.n_answered >= request.max_tokens
        if is_enough or not has_room:
            self._answers.finish(running, "length")
        return is_enough or not has_room

    def _is_end(self, request: Request, token: int) -> bool:
        return token in request.end_tokens or (
            not request.ignore_eos and self._vocabulary.is_end(token)
        )


def _result(choice: Future[Chosen]) -> Chosen:
    try:
        return choice.result()
    except DureError as error:
        return Chosen(error=error)


def _adjustments(
    outputs: Sequence[StepTokens], samplers: Sequence[Sampler]
) -> list[Adjustment | None]:
    """Return what to change of each row of logits: after the last token, and after each draft."""
    return [
        sampler.adjustment(s.drafts[:n])
        for s, sampler in zip(outputs, samplers, strict=True)
        for n in range(len(s.drafts) + 1)
    ]


def _output_rows(step: Sequence[StepTokens]) -> list[int]:
    """Return the places in the batch of the last token, and of the drafts, of each output."""
    rows, stop = list[int](), 0
    for s in step:
        stop += s.n_tokens
        if s.needs_logits:
            rows += range(stop - len(s.drafts) - 1, stop)
    return rows
