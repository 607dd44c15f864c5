"""Sequences whose windows have moved on are copied, swapped, stored and cut back, and stay right.

Random operations, as far as `Reach` allows them; every sequence is compared with one that was computed at
once by a context that keeps all positions. A window that is not whole is an EngineError, or other logits.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dure.engine.executor import Batch, FullExecutor
from dure.engine.instruments.benchmark import BenchRuns, measure
from dure.engine.kv import Clear, Copy, DropState, Forget, KeepState, KvOp, RestoreState, Swap
from dure.engine.limits import Limits
from dure.errors import EngineError
from dure.generate.scheduler.reach import Reach
from tests.support.cut_models import Floats, cut_executor, relative_error, step, whole_executor
from tests.support.random_models import SHAPES, write_random_model

N_SEQUENCES, N_CTX, N_BATCH = 4, 900, 64
LIMITS = Limits(N_CTX, threads=1, n_batch=N_BATCH, n_sequences=N_SEQUENCES)
NOTHING = np.zeros(0, np.int32)


class Twin:
    """An executor, and what its sequences hold."""

    def __init__(self, executor: FullExecutor, seed: int, directory: Path) -> None:
        self.executor, self.directory = executor, directory
        self.random = random.Random(seed)
        self.reach = Reach(n_window=executor.info.n_window)
        self.held: list[list[int]] = [[] for _ in range(N_SEQUENCES)]
        self.lowest = [0] * N_SEQUENCES
        self.states: dict[str, list[int]] = {}
        self.kv: list[KvOp] = [Clear()]

    def put(self, sequence: int, tokens: Sequence[int]) -> None:
        self.held[sequence] = list(tokens)
        self.lowest[sequence] = self.reach.after_move(len(tokens))

    def compute(self) -> dict[int, Floats]:
        """Compute some tokens of some sequences, and reject the last of some: logits before these."""
        n_most = self.random.choice([1, 8, 8, 40])
        chosen = sorted(self.random.sample(range(N_SEQUENCES), self.random.randint(1, N_SEQUENCES)))
        new = {s: self._new(self.random.randint(1, n_most)) for s in chosen}
        new = {s: t for s, t in new.items() if len(self.held[s]) + len(t) <= N_CTX}
        while sum(map(len, new.values())) > N_BATCH:
            new.popitem()
        if not new:
            return {}
        starts = [len(self.held[s]) for s in new]
        ends = np.cumsum([len(t) for t in new.values()]) - 1
        places = [np.arange(n, n + len(t)) for n, t in zip(starts, new.values(), strict=True)]
        batch = Batch(
            np.concatenate([np.array(t, np.int32) for t in new.values()]),
            np.concatenate(places).astype(np.int32),
            np.repeat(np.array(list(new), np.int32), [len(t) for t in new.values()]),
            ends.tolist(),
            top_k=1,
            kv=self._take(),
        )
        self.executor.step(batch)
        logits = {}
        for row, (s, start) in enumerate(zip(new, starts, strict=True)):
            self.held[s] += new[s]
            self.lowest[s] = self.reach.after_step(self.lowest[s], start, len(self.held[s]))
            logits[s] = self.executor.logits(row)
        return logits

    def _new(self, n: int) -> list[int]:
        return [self.random.randrange(1000) for _ in range(n)]

    def change(self) -> None:
        """Do one of the things that a scheduler may do."""
        a, b = self.random.sample(range(N_SEQUENCES), 2)
        tokens = self.held[a]
        kinds = (self.cut, self.copy, self.swap, self.keep, self.restore, self.store)
        if tokens:
            self.random.choice(kinds)(a, b)

    def cut(self, a: int, _b: int) -> None:
        n = self.random.randint(self.lowest[a], len(self.held[a]))
        self.kv.append(Forget(a, n))
        del self.held[a][n:]

    def copy(self, a: int, b: int) -> None:
        n = self.random.randint(max(1, self.lowest[a]), len(self.held[a]))
        self.kv += [Forget(b), Copy(a, b, n)]
        self.put(b, self.held[a][:n])
        self.lowest[a] = max(self.lowest[a], self.reach.after_move(len(self.held[a])))

    def swap(self, a: int, b: int) -> None:
        self.kv.append(Swap(a, b))
        lowest = self.lowest[b], self.lowest[a]
        self.held[a], self.held[b] = self.held[b], self.held[a]
        for s, low in zip((a, b), lowest, strict=True):
            self.lowest[s] = max(low, self.reach.after_move(len(self.held[s])))

    def keep(self, a: int, _b: int) -> None:
        key = str(self.random.randrange(3))
        self.kv += [DropState(key), KeepState(a, key)]
        self.states[key] = list(self.held[a])

    def restore(self, a: int, _b: int) -> None:
        for key, tokens in self.states.items():
            if self.held[a][: len(tokens)] == tokens:
                self.kv.append(RestoreState(a, key, len(tokens)))
                self.put(a, tokens)
                return

    def store(self, a: int, b: int) -> None:
        self.executor.step(Batch(NOTHING, NOTHING, NOTHING, top_k=1, kv=[*self._take(), Forget(b)]))
        path = str(self.directory / "saved")
        self.executor.save(a, path)
        assert self.executor.load(b, path, len(self.held[a]))
        self.put(b, self.held[a])

    def _take(self) -> list[KvOp]:
        kv, self.kv = self.kv, []
        return kv


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
@pytest.mark.parametrize(("name", "n_window"), [("gemma3", 50), ("gpt-oss", 30)])
def test_whatever_is_done_to_sequences_their_windows_are_whole(
    name: str, n_ranks: int, n_window: int, tmp_path: Path
) -> None:
    """Logits are those of the same tokens in a context of one sequence that keeps all positions."""
    path = tmp_path / "model.gguf"
    shape = replace(SHAPES[name], n_swa=n_window, n_ff=256, n_layer=min(6, SHAPES[name].n_layer))
    write_random_model(path, shape, "F32")
    with ExitStack() as stack:
        whole = replace(LIMITS, n_sequences=1, n_batch=N_CTX, full_window=True)
        reference = stack.enter_context(whole_executor(path, whole))
        executor: FullExecutor
        if n_ranks == 1:
            executor = stack.enter_context(whole_executor(path, LIMITS))
        else:
            shares = [1] * n_ranks
            executor = stack.enter_context(cut_executor(path, shares, tmp_path, limits=LIMITS))
        twin = Twin(executor, n_window + n_ranks, tmp_path)
        longest = 0
        for _ in range(80):
            twin.change()
            logits = twin.compute()
            longest = max(longest, *map(len, twin.held))
            for s in twin.random.sample(sorted(logits), min(1, len(logits))):
                expected = step(reference, twin.held[s], 0, kv=[Clear()])
                assert relative_error(logits[s], expected) < 1e-3
        assert longest > 3 * n_window, "it was about windows that move"


def windowed(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES["gemma3"], "Q8_0")
    return path


def test_a_sequence_whose_window_has_moved_on_is_not_cut_back_in_silence(tmp_path: Path) -> None:
    """The error names the sequence and the place."""
    with whole_executor(windowed(tmp_path), LIMITS) as executor:
        for start in range(0, 640, N_BATCH):
            step(executor, range(N_BATCH), start)
        with pytest.raises(EngineError, match=r"sequence 0 was cut back to 100 .* has moved on"):
            step(executor, [1], 100, kv=[Forget(0, 100)])


def test_a_model_with_windows_is_measured_at_a_depth_again_and_again(tmp_path: Path) -> None:
    """Every run begins from the state that was kept there."""
    with whole_executor(windowed(tmp_path), LIMITS) as executor:
        result = measure(executor, BenchRuns(n_prompt=300, n_generate=20, depth=400, repeat=3))
    assert result.depth == 400
    assert len(result.generation.tokens_per_s.runs) == 3
