"""The proposer: draft tokens for the answers of a step, by prompt lookup or from a draft model.

Knows which of the two to trust for each answer. Refuses to know how drafts are verified, and how a draft
model is started.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from dure.engine.executor import ExecutorInfo
from dure.generate.scheduler import RunningRequest, StepTokens
from dure.generate.speculative.budget import (
    BY_MODEL,
    AcceptanceRates,
    DraftBudget,
    DraftOption,
    budget_for,
)
from dure.generate.speculative.draft_model import DraftModel, DraftRequest
from dure.generate.speculative.prompt_lookup import PromptLookup
from dure.model.gguf import GgufFile
from dure.plan.kernels import repeats

__all__ = ["Draft", "Proposer", "draft_model_path", "proposer_for"]


class Draft(StrEnum):
    """Where draft tokens come from, unless a draft model's file is named."""

    LOOKUP = "lookup"
    OFF = "off"


@dataclass
class _AnswerDrafts:
    """What is known of an answer. source: of its latest drafts, see `AcceptanceRates`."""

    lookup: PromptLookup
    rates: AcceptanceRates = field(default_factory=AcceptanceRates)
    source: int = BY_MODEL

    def observe_token(self, token: int) -> None:
        """Append a token; whether prompt lookup would have proposed it is known without trying."""
        if (draft := self.lookup.propose(1)) is not None:
            self.rates.observe(draft.n_matched, accepted=draft.tokens == (token,))
        self.lookup.append(token)

    def observe_verified(self, n_drafts: int, n_accepted: int) -> None:
        """Take in how many of a step's drafts were accepted; the next one was rejected, if there is one."""
        if self.source != BY_MODEL:
            return
        for n in range(min(n_accepted + 1, n_drafts)):
            self.rates.observe(BY_MODEL, accepted=n < n_accepted)


@dataclass(frozen=True)
class _Proposal:
    """Where an answer's drafts would come from. tokens: the drafts, if these are known already."""

    option: DraftOption
    source: int
    tokens: tuple[int, ...] = ()


class Proposer:
    """Proposes draft tokens for one engine.

    budget: how many a step verifies. model: is run if prompt lookup finds nothing better.
    repeats: a token's logits do not depend on how many others a step computes. Else answers with a seed
    get no drafts.
    """

    def __init__(
        self, budget: DraftBudget, model: DraftModel | None = None, *, repeats: bool = True
    ) -> None:
        self.budget, self._model, self._repeats = budget, model, repeats
        self._answers: dict[str, _AnswerDrafts] = {}

    def begin(self, answer_id: str, tokens: Sequence[int], *, has_seed: bool = False) -> None:
        """Begin to propose for an answer, whose text so far is `tokens`."""
        if self._repeats or not has_seed:
            self._answers[answer_id] = _AnswerDrafts(PromptLookup(tokens))

    def observe_token(self, answer_id: str, token: int) -> None:
        """Take in an answer's next token; nothing happens if the answer was not begun."""
        if answer := self._answers.get(answer_id):
            answer.observe_token(token)

    def observe_verified(self, answer_id: str, n_drafts: int, n_accepted: int) -> None:
        """Take in how many of an answer's drafts were accepted; nothing happens if it has ended."""
        if answer := self._answers.get(answer_id):
            answer.observe_verified(n_drafts, n_accepted)

    def finish(self, answer_id: str) -> None:
        """Forget an answer."""
        self._answers.pop(answer_id, None)
        if self._model is not None:
            self._model.finish(answer_id)

    def close(self) -> None:
        """Free the draft model's memory."""
        if self._model is not None:
            self._model.close()

    def with_drafts(self, step: Sequence[StepTokens], info: ExecutorInfo) -> Sequence[StepTokens]:
        """Return a step with draft tokens; without any if it computes prompts."""
        if any(s.running.in_prefill for s in step):
            return step
        proposals: dict[int, _Proposal] = {}  # by place in the step
        for i, s in enumerate(step):
            if (proposal := self._propose(s.running, info)) is not None:
                proposals[i] = proposal
        counts = self._plan(len(step), proposals, info)
        by_model = self._run_model(
            step, {i: n for i, n in counts.items() if proposals[i].source == BY_MODEL}
        )
        drafted = list(step)
        for i, n in counts.items():
            self._answers[step[i].running.request.id].source = proposals[i].source
            drafts = by_model.get(i, proposals[i].tokens[:n])
            drafted[i] = replace(step[i], drafts=drafts)
        return drafted

    def _propose(self, running: RunningRequest, info: ExecutorInfo) -> _Proposal | None:
        """Return the better of what prompt lookup and the draft model propose for an answer."""
        answer = self._answers.get(running.request.id)
        n_max = min(_room(running, info), self.budget.n_max)
        if answer is None or n_max < 1:
            return None
        found = answer.lookup.propose(n_max)
        model_rate = answer.rates.rate(BY_MODEL) if self._model is not None else 0.0
        if found is not None and answer.rates.rate(found.n_matched) >= model_rate:
            option = DraftOption(len(found.tokens), answer.rates.rate(found.n_matched))
            return _Proposal(option, found.n_matched, found.tokens)
        if self._model is None:
            return None
        return _Proposal(DraftOption(n_max, model_rate, self._model.round_s), BY_MODEL)

    def _plan(
        self, n_answers: int, proposals: Mapping[int, _Proposal], info: ExecutorInfo
    ) -> dict[int, int]:
        """Return how many drafts of each proposal to verify."""
        n_max = min(info.n_outputs, info.n_batch) - n_answers
        counts = self.budget.plan(n_answers, [p.option for p in proposals.values()], n_max)
        return dict(zip(proposals, counts, strict=True))

    def _run_model(
        self, step: Sequence[StepTokens], counts: Mapping[int, int]
    ) -> dict[int, tuple[int, ...]]:
        """Return what the draft model proposes, by place in the step."""
        drafts: dict[int, tuple[int, ...]] = dict.fromkeys(counts, ())
        places = [i for i, n in counts.items() if n]
        if self._model is None or not places:
            return drafts
        requests = [
            DraftRequest(step[i].running.request.id, step[i].running.tokens, counts[i])
            for i in places
        ]
        return drafts | dict(zip(places, self._model.propose(requests), strict=True))


def proposer_for(
    draft: str, model: GgufFile, draft_model: DraftModel | None, features: Collection[str]
) -> Proposer | None:
    """Return what proposes draft tokens for a model; None if nothing does.

    draft: of `Draft`, or a draft model's file; then draft_model is that model, started.
    features: of the processor that computes.
    """
    if draft == Draft.OFF:
        return None
    is_exact = repeats(model.tensors, features)
    return Proposer(budget_for(model), draft_model, repeats=is_exact)


def draft_model_path(draft: str) -> Path | None:
    """Return the file of the draft model that `draft` names; None if it names none."""
    return None if draft in set(Draft) else Path(draft)


def _room(running: RunningRequest, info: ExecutorInfo) -> int:
    """Count the draft tokens that may be accepted, beside the token that comes in any case."""
    room = info.n_ctx - len(running.tokens) - 1
    if running.request.max_tokens is not None:
        room = min(room, running.request.max_tokens - running.n_answered - 1)
    return room
