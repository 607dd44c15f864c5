"""The answers that are being written: their clocks, their events, and the sums over all of them.

Knows when an answer begins, goes on and ends. Refuses to know how its tokens are chosen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dure.engine.executor import Floats, StepStats
from dure.errors import DureError
from dure.generate.request import (
    Done,
    Event,
    Failed,
    FinishReason,
    PrefillProgress,
    Request,
    Timings,
)
from dure.generate.sampling import Sampler
from dure.generate.scheduler import RunningRequest, Scheduler
from dure.generate.speculative.proposer import Proposer
from dure.generate.step_notes import StepNote

__all__ = ["ActiveAnswer", "ActiveAnswers", "LoopTotals"]


@dataclass
class ActiveAnswer:
    """An answer with its clock. submitted_at, admitted_at, first_token_at: 0 until then.

    compute_s, sync_s, bytes_sent: of its decode steps, as in `Timings`. embedding: float32 [n_embd], the
    sum over the tokens so far.
    """

    request: Request
    submitted_at: float
    admitted_at: float = 0.0
    first_token_at: float = 0.0
    sampler: Sampler | None = None
    n_reused: int = 0
    n_drafts: int = 0
    n_accepted: int = 0
    compute_s: float = 0.0
    sync_s: float = 0.0
    bytes_sent: float = 0.0
    embedding: Floats | None = None

    def observe_step(self, compute_s: float, sync_s: float, bytes_sent: float) -> None:
        """Take in a step that gave it a token; the first of these belongs to its prompt."""
        if not self.first_token_at:
            self.first_token_at = time.perf_counter()
            return
        self.compute_s += compute_s
        self.sync_s += sync_s
        self.bytes_sent += bytes_sent

    def timings(self, n_answered: int) -> Timings:
        """Return what it took until now, for that many tokens."""
        now, n_prompt = time.perf_counter(), len(self.request.prompt)
        if not self.admitted_at:
            return Timings(queue_s=now - self.submitted_at, prompt_tokens=n_prompt)
        return Timings(
            queue_s=self.admitted_at - self.submitted_at,
            prompt_tokens=n_prompt,
            cached_tokens=min(self.n_reused, n_prompt),
            prompt_s=(self.first_token_at or now) - self.admitted_at,
            tokens=n_answered,
            generate_s=now - self.first_token_at if self.first_token_at else 0.0,
            compute_s=self.compute_s,
            sync_s=self.sync_s,
            bytes_sent=self.bytes_sent,
            drafted=self.n_drafts,
            accepted=self.n_accepted,
        )


@dataclass
class LoopTotals:
    """Sums over all steps and answers."""

    n_ranks: int
    prompt_tokens: int = 0
    prompt_s: float = 0.0
    generated_tokens: int = 0
    generate_s: float = 0.0
    steps: int = 0
    step_s: float = 0.0
    drafted: int = 0
    accepted: int = 0
    n_decode_steps: int = 0  # steps without prompts that no other program disturbed
    given_up: tuple[int, ...] = ()  # threads of each rank in the last step
    notes: list[StepNote] | None = None  # since they were taken, while somebody watches

    def __post_init__(self) -> None:
        self.decode_compute_s = np.zeros(self.n_ranks)  # of each rank in these
        self.compute_s = np.zeros(self.n_ranks)
        self.lost_s = np.zeros(self.n_ranks)  # of its threads, to other programs
        self.sync_s = np.zeros(self.n_ranks)
        self.bytes_sent = np.zeros(self.n_ranks)

    def add_step(self, elapsed_s: float, n_tokens: int, n_prefill: int, stats: StepStats) -> None:
        """Add a step, n_prefill of whose tokens were of prompts."""
        if self.notes is not None:
            self.notes.append(_note(n_tokens, n_prefill, stats))
        self.steps += 1
        self.step_s += elapsed_s
        self.given_up = stats.given_up
        self.prompt_tokens += n_prefill
        if not n_prefill and not stats.is_disturbed:
            self.n_decode_steps += 1
            self.decode_compute_s += stats.compute_s
        self.compute_s += stats.compute_s
        self.lost_s += np.multiply(stats.lost, stats.step_s)
        self.sync_s += stats.sync_s
        self.bytes_sent += stats.bytes_sent

    def threads(self, full: Sequence[int]) -> tuple[int, ...]:
        """Return the threads of each rank now. full: of each, while no other program is busy."""
        given_up = self.given_up or (0,) * len(full)
        return tuple(n - less for n, less in zip(full, given_up, strict=True))

    def add_answer(self, timings: Timings) -> None:
        """Add an answer that has ended."""
        self.drafted += timings.drafted
        self.accepted += timings.accepted
        self.prompt_s += timings.prompt_s
        self.generate_s += timings.generate_s


def _note(n_tokens: int, n_prefill: int, stats: StepStats) -> StepNote:
    return StepNote(
        time.time(),
        n_tokens,
        n_prefill,
        stats.compute_s,
        stats.sync_s,
        stats.idle_s,
        stats.bytes_sent,
    )


class ActiveAnswers:
    """The answers of one loop by the ids of their requests, and the events that are due."""

    def __init__(self, scheduler: Scheduler, proposer: Proposer | None, totals: LoopTotals) -> None:
        self._scheduler, self._proposer, self._totals = scheduler, proposer, totals
        self._answers: dict[str, ActiveAnswer] = {}
        self._events: list[Event] = []

    def __getitem__(self, request_id: str) -> ActiveAnswer:
        return self._answers[request_id]

    def use_adapter(self, number: int) -> bool:
        """Tell whether one of them is computed with an adapter."""
        every = (answer.request.adapters for answer in self._answers.values())
        return any(number == one for adapters in every for one, _ in adapters)

    @property
    def busy(self) -> bool:
        """Tell whether there are answers, or events of answers that have ended."""
        return bool(self._answers or self._events)

    def begin(self, request: Request) -> None:
        """Begin an answer."""
        self._answers[request.id] = ActiveAnswer(request, time.perf_counter())

    def is_active(self, answer: ActiveAnswer) -> bool:
        """Tell whether an answer has not ended."""
        return self._answers.get(answer.request.id) is answer

    def emit(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)

    def emit_progress(self, running: RunningRequest) -> None:
        """Add the event of how much of a prompt is computed."""
        answer = self._answers[running.request.id]
        if answer.first_token_at:  # it was paused, and its client knows the progress already
            return
        self.emit(
            PrefillProgress(
                running.request.id,
                running.n_prompt,
                answer.n_reused,
                min(running.n_cached, running.n_prompt),
                time.perf_counter() - answer.admitted_at,
            )
        )

    def take_events(self) -> list[Event]:
        """Return the events that were not returned before."""
        events, self._events = self._events, []
        return events

    # ------------------------------------------------------------ ends

    def finish(
        self, running: RunningRequest, reason: FinishReason, end_token: int | None = None
    ) -> None:
        """End an answer, and add its Done."""
        timings = self.end(running).timings(running.n_answered)
        self._totals.add_answer(timings)
        self.emit(Done(running.request.id, reason, timings, end_token))

    def end(self, running: RunningRequest) -> ActiveAnswer:
        """End an answer without an event."""
        self._scheduler.finish(running)
        return self._remove(running.request.id)

    def cancel(self, request_id: str) -> None:
        """End an answer early, and add its Done; nothing happens if there is none."""
        was = self._scheduler.cancel(request_id)
        if was is None:
            return
        n = was.n_answered if isinstance(was, RunningRequest) else len(was.answered)
        timings = self._remove(request_id).timings(n)
        self.emit(Done(request_id, "cancelled", timings))

    def fail(
        self, request_id: str, error: DureError, running: RunningRequest | None = None
    ) -> None:
        """End an answer, if it was begun, and add its Failed. running: its slot, if it has one."""
        if running is not None:
            self.end(running)
        self.emit(Failed(request_id, error.record()))

    def _remove(self, request_id: str) -> ActiveAnswer:
        if self._proposer is not None:
            self._proposer.finish(request_id)
        return self._answers.pop(request_id)
