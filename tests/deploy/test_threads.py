"""How many threads decode: measured on the model itself, kept, and without any effect on its answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from dure.deploy.reporter import SilentReporter
from dure.deploy.threads import candidates, tell_of_threads, tune_threads
from dure.engine.executor import Batch, ExecutorInfo, FullExecutor, StepResult, StepStats
from dure.engine.kv import Clear
from dure.engine.limits import Limits
from dure.engine.thread_watch import ThreadWatch
from tests.support.cut_models import cut_executor, step, whole_executor

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
LIMITS = Limits(n_ctx=256, threads=2)


class Clockwork:
    """Stands in for machines: each rank takes the time that is written down for its threads."""

    def __init__(self, *takes: Mapping[int, float], lost: float = 0.0) -> None:
        self.lost = lost  # to other programs
        self.watch = ThreadWatch()
        self._takes, self.threads, self.steps = takes, [max(t) for t in takes], 0
        self.info = ExecutorInfo(len(takes), 100, 256, 512, 1, 1, tuple(self.threads))

    def set_threads(self, threads: Sequence[int]) -> None:
        self.threads = list(threads)

    def watch_threads(self, changed: Callable[[Sequence[int]], None]) -> None:
        self.watch.changed = changed

    def step(self, _batch: Batch) -> StepResult:
        self.steps += 1
        took = tuple(t[n] for t, n in zip(self._takes, self.threads, strict=True))
        zeros, lost = (0.0,) * len(took), (self.lost,) * len(took)
        return StepResult((), StepStats(took, zeros, zeros, zeros, (0,) * len(took), lost))


def tuned(file: Path, *takes: Mapping[int, float], key: str = "model") -> Clockwork:
    executor = Clockwork(*takes)
    tune_threads(cast(FullExecutor, executor), key, file)
    return executor


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [1]), (2, [2, 1]), (4, [4, 3, 2, 1]), (8, [8, 7, 4, 1])]
)
def test_some_numbers_are_tried(most: int, expected: list[int]) -> None:
    assert candidates(most) == expected


@pytest.mark.parametrize(
    ("takes", "expected"),
    [
        ({4: 1.0, 3: 1.2, 2: 2.0, 1: 4.0}, 4),
        ({4: 1.5, 3: 1.0, 2: 1.2, 1: 2.0}, 3),  # the fourth core has other work
        ({4: 1.0, 3: 1.0, 2: 1.02, 1: 2.0}, 2),  # memory is used up by two
        ({2: 3.0, 1: 1.0}, 1),
    ],
)
def test_the_quickest_is_taken_and_of_equals_the_fewest(
    tmp_path: Path, takes: dict[int, float], expected: int
) -> None:
    assert tuned(tmp_path / "threads.json", takes).threads == [expected]


def test_every_rank_has_its_own(tmp_path: Path) -> None:
    quick, crowded = {8: 1.0, 7: 1.2, 4: 2.0, 1: 8.0}, {2: 2.0, 1: 1.0}
    assert tuned(tmp_path / "threads.json", quick, crowded, {1: 1.0}).threads == [8, 1, 1]


def test_what_was_measured_is_kept_for_the_model_and_its_cut(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "threads.json"
    assert tuned(file, {2: 1.0, 1: 2.0}).steps > 10
    again = tuned(file, {2: 2.0, 1: 1.0})
    assert (again.steps, again.threads) == (0, [2])
    assert tuned(file, {2: 2.0, 1: 1.0}, key="other").threads == [1]
    assert json.loads(file.read_text()) == {"model": [2], "other": [1]}
    fewer = tuned(file, {1: 1.0})  # the machine has one core less than then
    assert fewer.threads == [1]
    assert fewer.steps > 0


def test_nothing_is_kept_that_was_measured_beside_other_programs(tmp_path: Path) -> None:
    """Threads are given up while the model runs, and not for ever."""
    file = tmp_path / "threads.json"
    crowded = Clockwork({2: 3.0, 1: 1.0}, lost=0.6)
    tune_threads(cast(FullExecutor, crowded), "model", file)
    assert crowded.threads == [2]
    assert not file.exists()
    assert tuned(file, {2: 1.0, 1: 2.0}).threads == [2]
    assert file.exists()


def test_a_start_that_answers_wait_for_measures_nothing(tmp_path: Path) -> None:
    """It takes what is known, else all cores."""
    file = tmp_path / "threads.json"
    executor = Clockwork({2: 2.0, 1: 1.0})
    tune_threads(cast(FullExecutor, executor), "model", file, may_measure=False)
    assert (executor.steps, executor.threads) == (0, [2])
    tuned(file, {2: 2.0, 1: 1.0})
    tune_threads(cast(FullExecutor, executor), "model", file, may_measure=False)
    assert (executor.steps, executor.threads) == (0, [1])


def test_a_file_that_cannot_be_read_or_written_costs_only_time(tmp_path: Path) -> None:
    damaged = tmp_path / "threads.json"
    damaged.write_text("[1, 2")
    assert tuned(damaged, {2: 1.0, 1: 2.0}).threads == [2]
    assert tuned(tmp_path / "threads.json" / "below", {2: 1.0, 1: 2.0}).threads == [2]


class Listener(SilentReporter):
    """Keeps the news."""

    def __init__(self) -> None:
        self.heard = list[str]()

    def news(self, text: str) -> None:
        self.heard.append(text)


def test_it_is_told_once_that_threads_are_given_up() -> None:
    executor, listener = Clockwork({4: 1.0}, {4: 1.0}, {2: 1.0}), Listener()
    machines = ("attic", "pi-1", "pi-2")
    tell_of_threads(cast(FullExecutor, executor), (4, 4, 2), machines, listener)
    for given_up in ((0, 0, 0), (0, 2, 1), (0, 0, 0), (1, 0, 0)):
        executor.watch.see(given_up)
    assert listener.heard == [
        "other programs are using the processors: 2 instead of 4 threads on pi-1, "
        "1 instead of 2 threads on pi-2 for now"
    ]


@pytest.fixture(params=["one", "two"])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FullExecutor]:
    """The demo model with two threads a rank."""
    with (
        whole_executor(DEMO, LIMITS)
        if request.param == "one"
        else cut_executor(DEMO, [1, 1], tmp_path / "shards", limits=LIMITS)
    ) as running:
        yield running


def test_the_models_answer_does_not_depend_on_it(executor: FullExecutor, tmp_path: Path) -> None:
    """Nor on the measuring before it: the KV cache is empty again."""
    tokens = [*range(300, 340)]
    before = step(executor, tokens, 0, kv=[Clear()])
    nothing = np.zeros(0, np.int32)
    executor.step(Batch(nothing, nothing, nothing, top_k=1, kv=[Clear()]))
    tune_threads(executor, "demo", tmp_path / "threads.json")
    chosen = executor.info.threads
    assert all(n in (1, 2) for n in chosen)
    after = step(executor, tokens, 0)
    np.testing.assert_allclose(after, before, atol=1e-4)
