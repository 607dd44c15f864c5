"""A small model that guesses what a large one will say, on rank 0's machine.

Knows how its own KV cache follows the answers: it is told each answer's whole text every time, and
computes what is new of it. It always takes its best token: whether that is right, the large model says.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dure.deploy.local import limits_of, memory_of_whole, threads_of
from dure.deploy.options import RunOptions
from dure.deploy.reporter import Reporter
from dure.engine.executor import Batch, Executor, KvOp
from dure.engine.local import LocalExecutor
from dure.errors import UsageError
from dure.generate.scheduler.prefix_tree import common_length
from dure.generate.speculative.budget import StepCosts
from dure.hardware.probe import probe
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary

__all__ = ["DraftModel", "Wanted", "open_draft_model"]

TRIED = 4  # steps whose time is taken at the start


@dataclass(frozen=True)
class Wanted:
    """So many tokens after an answer's text (prompt included). answer: its request's id."""

    answer: str
    tokens: Sequence[int]
    n: int


@dataclass
class _Sequence:
    """held: tokens in its KV cache. answer: whose it is, "" once that has ended."""

    held: list[int]
    answer: str = ""


class DraftModel:
    """Guesses for many answers at once. Raises EngineError as its executor does."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._sequences = [_Sequence([]) for _ in range(executor.info.n_sequences)]
        self._costs = StepCosts()
        for _ in range(TRIED):  # the first is slower, and counts for little
            self._round([0], [0], [0], [KvOp(0)])

    @property
    def round_s(self) -> float:
        """Seconds for one token more, of every answer."""
        return self._costs.of(1)

    def guess(self, wanted: Sequence[Wanted]) -> list[tuple[int, ...]]:
        """The tokens of each; none where it has a prompt left to compute, or no room."""
        n_best: dict[int, int] = {}  # by sequence: how many are wanted
        ready: dict[int, list[int]] = {}
        room = self._executor.info.n_batch
        places = [self._place_of(want) for want in wanted]
        for place, want in zip(places, wanted, strict=True):
            if len(want.tokens) + want.n > self._executor.info.n_ctx:
                continue
            if room > 0 and (token := self._catch_up(place, want.tokens, room)) is not None:
                ready[place], n_best[place] = [token], want.n
        while going_on := [p for p, found in ready.items() if len(found) < n_best[p]]:
            tokens = [ready[place][-1] for place in going_on]
            positions = [len(self._sequences[place].held) for place in going_on]
            for place, token in zip(
                going_on, self._round(tokens, positions, going_on), strict=True
            ):
                self._sequences[place].held.append(ready[place][-1])
                ready[place].append(token)
        return [tuple(ready.get(place, ())) for place in places]

    def _place_of(self, want: Wanted) -> int:
        """An answer's sequence; of the free ones that with the longest common beginning, at first."""
        for place, sequence in enumerate(self._sequences):
            if sequence.answer == want.answer:
                return place
        place = max(
            (place for place, sequence in enumerate(self._sequences) if not sequence.answer),
            key=lambda place: common_length(self._sequences[place].held, want.tokens),
        )
        self._sequences[place].answer = want.answer
        return place

    def _catch_up(self, place: int, tokens: Sequence[int], most: int) -> int | None:
        """Compute what is new of a text, at most so many tokens; the next one, if that is all."""
        sequence = self._sequences[place]
        n = min(common_length(sequence.held, tokens), len(tokens) - 1)
        new = list(tokens[n : n + most])
        is_all = n + len(new) == len(tokens)
        result = self._executor.step(
            Batch(
                np.array(new, np.int32),
                np.arange(n, n + len(new), dtype=np.int32),
                np.full(len(new), place, np.int32),
                [len(new) - 1] if is_all else [],
                n_best=1,
                kv=[KvOp(place, n)],
            )
        )
        sequence.held = list(tokens[: n + len(new)])
        return int(result.rows[0].ids[0]) if is_all else None

    def _round(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        places: Sequence[int],
        kv: Sequence[KvOp] = (),
    ) -> list[int]:
        """The best token after each of these."""
        begun = time.perf_counter()
        batch = Batch(
            np.array(tokens, np.int32),
            np.array(positions, np.int32),
            np.array(places, np.int32),
            range(len(tokens)),
            n_best=1,
            kv=kv,
        )
        rows = self._executor.step(batch).rows
        self._costs.saw(1, time.perf_counter() - begun)
        return [int(row.ids[0]) for row in rows]

    def ended(self, answer: str) -> None:
        """An answer has ended; its text may be the beginning of another one."""
        for sequence in self._sequences:
            if sequence.answer == answer:
                sequence.answer = ""

    def close(self) -> None:
        """Free its memory."""
        self._executor.close()


def open_draft_model(
    path: Path, vocabulary: Vocabulary, options: RunOptions, n_ctx: int, reporter: Reporter
) -> DraftModel:
    """Load a draft model for a model with this vocabulary, where rank 0 is.

    n_ctx: of the large one, for each of options.n_sequences answers.
    Raises UsageError where the vocabularies differ, ResourceError where there is no memory for it.
    """
    machine = probe()
    threads = threads_of(options.threads, 1, machine)
    with open_gguf(path) as model:
        _check_vocabulary(Vocabulary(model), vocabulary)
        trained = model.int(f"{model.architecture}.context_length", n_ctx)
        own = RunOptions(
            ctx=min(n_ctx, trained),
            n_sequences=options.n_sequences,
            lock_memory=options.lock_memory,
            pin=options.pin,
        )
        memory, n_ctx = memory_of_whole(model, own, machine)
    with reporter.loading(path.name) as progress:
        executor = LocalExecutor(
            path,
            limits_of(n_ctx, threads, own),
            kv_bytes=memory.kv_bytes(n_ctx, own.n_sequences),
            progress=progress,
        )
    if not executor.info.can_forget:
        executor.close()
        raise UsageError(
            f"{path.name} keeps a running state and cannot take back a wrong guess: give another "
            "--draft model"
        )
    return DraftModel(executor)


def _check_vocabulary(draft: Vocabulary, model: Vocabulary) -> None:
    """Close a draft model's. Raises UsageError where a token means something else to it."""
    n = min(draft.n_tokens, model.n_tokens)
    different = next((i for i in range(n) if draft.piece(i) != model.piece(i)), None)
    name = draft.name
    draft.close()
    if different is not None:
        raise UsageError(
            f"{name} has another vocabulary than {model.name} (token {different} is another text): "
            "--draft needs a smaller model of the same family"
        )
