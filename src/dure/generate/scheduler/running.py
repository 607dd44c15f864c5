"""A request that runs in a slot, and the tokens of it that one step computes.

Knows how far prompt and answer have come. Refuses to know which request runs next.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dure.generate.request import Request

__all__ = ["RunningRequest", "StepTokens", "next_tokens"]


@dataclass
class RunningRequest:
    """A request in a slot.

    tokens: its prompt, and the answer so far. n_cached: how many of them are in the KV cache; n_reused of
    these were there when it was admitted. n_skipped: tokens of other prompts that were computed while
    this prompt waited. is_choosing: no step can have it, as its next token is not chosen yet, or cannot be.
    n_unverified: drafts in the KV cache behind the n_cached tokens. turn: the number of its admission.
    n_computed: tokens since then, without those that were computed before a pause. stops: lengths at which
    its state is to be kept, ascending; no step goes across one.
    """

    request: Request
    slot: int  # -1: it was paused
    tokens: list[int]
    n_cached: int
    n_reused: int
    n_skipped: int = 0
    is_choosing: bool = False
    n_unverified: int = 0
    turn: int = 0
    n_computed: int = 0
    stops: list[int] = field(default_factory=list)

    @property
    def n_prompt(self) -> int:
        """Count the tokens to prefill: the prompt, and what an engine before this one answered."""
        return len(self.request.prompt) + len(self.request.answered)

    @property
    def n_answered(self) -> int:
        """Count the tokens of the answer, with those from an engine before this one."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def n_remaining(self) -> int:
        """Count the tokens that are not in the KV cache yet."""
        return len(self.tokens) - self.n_cached

    @property
    def n_to_stop(self) -> int:
        """Count those of them that a step may compute: up to where its state is to be kept."""
        return min([len(self.tokens), *self.stops[:1]]) - self.n_cached

    @property
    def n_to_read(self) -> int:
        """Count the tokens of the prompt whose logits are asked for, and are not computed yet.

        Nothing follows the last one but the answer, whose step computes it.
        """
        request = self.request
        n = len(request.prompt) - (not request.prompt_logits) if request.reads_prompt else 0
        return max(0, n - self.n_cached)

    @property
    def in_steps(self) -> bool:
        """Tell whether the next step may have it; if not, it is computed apart, or being chosen for."""
        return not (self.request.embed or self.is_choosing or self.n_to_read)

    @property
    def in_prefill(self) -> bool:
        """Tell whether a part of the prompt is not computed yet."""
        return self.n_cached < self.n_prompt


@dataclass(frozen=True)
class StepTokens:
    """The tokens of one request in a step.

    start: the position of the first token. output: they are the request's last, so that the logits after
    them give its next token. drafts: draft tokens behind them; the logits after each are needed too.
    """

    running: RunningRequest
    start: int
    tokens: tuple[int, ...]
    output: bool
    drafts: tuple[int, ...] = ()

    @property
    def all_tokens(self) -> tuple[int, ...]:
        """The tokens with the drafts behind them."""
        return self.tokens + self.drafts

    @property
    def n_tokens(self) -> int:
        """Count the tokens, drafts included."""
        return len(self.tokens) + len(self.drafts)

    @property
    def stop(self) -> int:
        """The position after the last, drafts included."""
        return self.start + self.n_tokens

    @property
    def needs_logits(self) -> bool:
        """Tell whether to choose a next token; a request for none only has its prompt prefilled."""
        return self.output and self.running.request.max_tokens != 0


def next_tokens(running: RunningRequest, n_max: int) -> StepTokens:
    """Return the first tokens of a request that are not in the KV cache yet, at most n_max."""
    start = running.n_cached
    tokens = tuple(running.tokens[start : start + min(n_max, running.n_to_stop)])
    return StepTokens(running, start, tokens, output=start + len(tokens) == len(running.tokens))
