"""What the engine's loop knows of each answer while it is written, and of all that were."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from dure.engine.executor import Floats, StepStats
from dure.generate.request import Request, Timings
from dure.generate.sampling import Sampler
from dure.generate.scheduler import RunningRequest

__all__ = ["Answer", "Totals", "timings_of"]


@dataclass
class Answer:
    """One request while it is here, with its clock."""

    request: Request
    submitted: float
    admitted: float = 0.0
    first: float = 0.0
    sampler: Sampler | None = None
    n_drafts: int = 0
    n_accepted: int = 0
    n_reused: int = 0
    compute_s: float = 0.0
    sync_s: float = 0.0
    bytes_sent: float = 0.0
    embedding: Floats | None = None


@dataclass
class Totals:
    """Sums of all steps and answers."""

    n_ranks: int
    prompt_tokens: int = 0
    prompt_s: float = 0.0
    generated_tokens: int = 0
    generate_s: float = 0.0
    steps: int = 0
    step_s: float = 0.0
    drafted: int = 0
    accepted: int = 0
    decodings: int = 0  # steps without prompts

    def __post_init__(self) -> None:
        self.decoding_s = np.zeros(self.n_ranks)  # that each rank computed in these
        self.sync_s = np.zeros(self.n_ranks)
        self.bytes_sent = np.zeros(self.n_ranks)

    def step(self, elapsed_s: float, n_prefill: int, stats: StepStats) -> None:
        """A step has ended; of its tokens n_prefill were of prompts."""
        self.steps += 1
        self.step_s += elapsed_s
        self.prompt_tokens += n_prefill
        if not n_prefill:
            self.decodings += 1
            self.decoding_s += stats.compute_s
        self.sync_s += stats.sync_s
        self.bytes_sent += stats.bytes_sent

    def finish(self, timings: Timings) -> None:
        """An answer has ended."""
        self.drafted += timings.drafted
        self.accepted += timings.accepted
        self.prompt_s += timings.prompt_s
        self.generate_s += timings.generate_s


def timings_of(answer: Answer, running: RunningRequest | None) -> Timings:
    """What an answer took until now. running: None where it never got a sequence."""
    now = time.perf_counter()
    if running is None:
        return Timings(queue_s=now - answer.submitted, prompt_tokens=len(answer.request.prompt))
    return Timings(
        queue_s=answer.admitted - answer.submitted,
        prompt_tokens=len(answer.request.prompt),
        cached_tokens=min(answer.n_reused, len(answer.request.prompt)),
        prompt_s=(answer.first or now) - answer.admitted,
        tokens=running.n_answered,
        generate_s=now - answer.first if answer.first else 0.0,
        compute_s=answer.compute_s,
        sync_s=answer.sync_s,
        bytes_sent=answer.bytes_sent,
        drafted=answer.n_drafts,
        accepted=answer.n_accepted,
    )
