"""A draft model: a small model that proposes what a large one may say next, on rank 0's machine.

Knows how its own KV cache follows the answers: it gets each answer's whole text every time, and prefills
what is new of it. It always proposes its greedy choice. Refuses to know whether the large model accepts
that, and how its executor was started.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dure.engine.executor import Batch, Executor
from dure.engine.kv import Forget, KvOp
from dure.generate.scheduler.prefix_tree import common_length
from dure.generate.speculative.budget import StepCosts

__all__ = ["DraftModel", "DraftRequest"]

N_WARM_UP = 4  # steps that are timed at the start


@dataclass(frozen=True)
class DraftRequest:
    """A request for n draft tokens after an answer's text, prompt included."""

    answer_id: str
    tokens: Sequence[int]
    n: int


@dataclass
class _DraftSlot:
    """One sequence of the draft model's KV cache. answer_id: whose it is, None once that has ended."""

    held: list[int]
    answer_id: str | None = None


class DraftModel:
    """Proposes draft tokens for many answers at once. Raises EngineError as its executor does."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._slots = [_DraftSlot([]) for _ in range(executor.info.n_sequences)]
        self._costs = StepCosts()
        for _ in range(N_WARM_UP):  # the first is slower, and counts for little
            self._decode([0], [0], [0], [Forget(0)])

    @property
    def round_s(self) -> float:
        """Seconds for one more draft token of every answer."""
        return self._costs.seconds(1)

    def propose(self, requests: Sequence[DraftRequest]) -> list[tuple[int, ...]]:
        """Return the draft tokens of each request.

        None for one whose text needs more than this step to prefill, or leaves no room in the context.
        """
        slots = [self._slot_of(request) for request in requests]
        drafts: dict[int, list[int]] = {}
        n_wanted: dict[int, int] = {}
        info = self._executor.info
        for slot, request in zip(slots, requests, strict=True):
            if len(request.tokens) + request.n > info.n_ctx:
                continue
            if (token := self._prefill(slot, request.tokens, info.n_batch)) is not None:
                drafts[slot], n_wanted[slot] = [token], request.n
        while short := [slot for slot, tokens in drafts.items() if len(tokens) < n_wanted[slot]]:
            self._extend(drafts, short)
        return [tuple(drafts.get(slot, ())) for slot in slots]

    def _slot_of(self, request: DraftRequest) -> int:
        """Return an answer's slot; at first, take the free one with the longest common prefix."""
        for index, slot in enumerate(self._slots):
            if slot.answer_id == request.answer_id:
                return index
        index = max(
            (index for index, slot in enumerate(self._slots) if slot.answer_id is None),
            key=lambda index: common_length(self._slots[index].held, request.tokens),
        )
        self._slots[index].answer_id = request.answer_id
        return index

    def _prefill(self, slot: int, tokens: Sequence[int], n_max: int) -> int | None:
        """Compute what is new of a text, at most n_max tokens; return the next token, if that was all."""
        n = min(common_length(self._slots[slot].held, tokens), len(tokens) - 1)
        new = list(tokens[n : n + n_max])
        is_all = n + len(new) == len(tokens)
        result = self._executor.step(
            Batch(
                np.array(new, np.int32),
                np.arange(n, n + len(new), dtype=np.int32),
                np.full(len(new), slot, np.int32),
                [len(new) - 1] if is_all else [],
                top_k=1,
                kv=[Forget(slot, n)],
            )
        )
        self._slots[slot].held = list(tokens[: n + len(new)])
        return int(result.rows[0].ids[0]) if is_all else None

    def _extend(self, drafts: dict[int, list[int]], slots: Sequence[int]) -> None:
        """Append one token to the drafts in some slots."""
        last = [drafts[slot][-1] for slot in slots]
        positions = [len(self._slots[slot].held) for slot in slots]
        for slot, token in zip(slots, self._decode(last, positions, slots), strict=True):
            self._slots[slot].held.append(drafts[slot][-1])
            drafts[slot].append(token)

    def _decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        slots: Sequence[int],
        kv: Sequence[KvOp] = (),
    ) -> list[int]:
        """Compute one token of each slot; return the likeliest token after each."""
        start = time.perf_counter()
        batch = Batch(
            np.array(tokens, np.int32),
            np.array(positions, np.int32),
            np.array(slots, np.int32),
            range(len(tokens)),
            top_k=1,
            kv=kv,
        )
        rows = self._executor.step(batch).rows
        self._costs.observe(1, time.perf_counter() - start)
        return [int(row.ids[0]) for row in rows]

    def finish(self, answer_id: str) -> None:
        """Free the slot of an answer that has ended; its text may be the prefix of another one."""
        for slot in self._slots:
            if slot.answer_id == answer_id:
                slot.answer_id = None

    def close(self) -> None:
        """Free its memory."""
        self._executor.close()
