"""Watches the steps of a running engine: what each took, and the path of one token on demand.

Knows the messages that tell it. Refuses to know who watches.
"""

from __future__ import annotations

from dure.engine.executor import FullExecutor
from dure.engine.trace import last_experts, last_step
from dure.errors import DureError, EngineError
from dure.generate.loop import EngineLoop
from dure.generate.step_notes import StepNote, TokenTrace, TracedInterval
from dure.worker import protocol as msg
from dure.worker.connection import SupervisorConnection

__all__ = ["StepTracer"]

_MOST_NOTES = 128  # in a message: nobody can see more within half a second


class StepTracer:
    """Notes the steps of one loop while somebody watches or waits for a trace."""

    def __init__(
        self, loop: EngineLoop, executor: FullExecutor, supervisor: SupervisorConnection
    ) -> None:
        self._loop, self._executor, self._supervisor = loop, executor, supervisor
        self._is_watched = self._is_tracing = False
        self._unsent: list[StepNote] = []

    def watch(self, *, on: bool) -> None:
        """Note steps from now on, or no more."""
        self._is_watched = on
        self._unsent.clear()
        self._loop.watch(on=on or self._is_tracing)

    def trace(self) -> None:
        """Trace the steps until one that only decodes. Why it cannot be done is sent."""
        if self._is_tracing:
            return
        try:
            self._executor.trace(experts=True)
        except EngineError:
            raise
        except DureError as error:
            self._supervisor.send(msg.TokenTraced(None, error.record()))
            return
        self._is_tracing = True
        self._loop.watch(on=True)

    def end_trace(self) -> None:
        """Trace no more: nobody waits for the token any longer."""
        if self._is_tracing:
            self._executor.traced()
            self._is_tracing = False
            self._loop.watch(on=self._is_watched)

    def stepped(self) -> None:
        """Take in the notes of a step that was just computed."""
        if not (self._is_watched or self._is_tracing):
            return
        notes = self._loop.take_notes()
        if self._is_watched:
            self._unsent = [*self._unsent, *notes][-_MOST_NOTES:]
        if self._is_tracing and notes and notes[-1].is_decode:
            self._finish_trace(notes[-1])

    def send(self) -> None:
        """Send the notes so far."""
        if self._unsent:
            self._supervisor.send(msg.StepsNoted(self._unsent))
            self._unsent = []

    def _finish_trace(self, note: StepNote) -> None:
        traced = self._executor.traced()
        self._is_tracing = False
        self._loop.watch(on=self._is_watched)
        ranks = tuple(
            tuple(TracedInterval(i.part, float(i.begun), float(i.ended), i.layer) for i in own)
            for own in last_step(traced)
        )
        steps = [step for step in traced[0].steps if len(step.reductions)]
        n_sums = len(steps[-1].reductions) if steps and len(traced) > 1 else 0
        chosen = last_experts(traced)
        n_experts = max((one.n_experts for one in chosen), default=0)
        experts = tuple(one.chosen for one in chosen) if n_experts else ()
        self._supervisor.send(msg.TokenTraced(TokenTrace(note, n_sums, ranks, n_experts, experts)))
