"""Threads are given up while other programs use the processors, and taken back."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dure.engine.compute.sharing import (
    REST_WINDOWS,
    UP_AFTER,
    CpuTimes,
    ThreadChoice,
    ThreadSharing,
    cpu_times,
    fitting,
    processors_left,
)
from dure.engine.executor import Batch, FullExecutor
from dure.engine.kv import Clear
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.hardware.probe import cpus, n_cpus
from tests.support.cut_models import cut_executor

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
QUICK, SLOW = {1: 0.01}, {1: 0.1}


def observed(choice: ThreadChoice, *windows: tuple[float, dict[int, float]]) -> list[int]:
    return [choice.observe(left, seconds) for left, seconds in windows]


@pytest.mark.parametrize(
    ("left", "most", "expected"),
    [
        (2.0, 2, 2),
        (1.5, 2, 2),  # half a processor is what a server's own HTTP takes
        (1.33, 2, 1),  # a busy loop beside two threads has two thirds
        (3.2, 4, 3),
        (0.2, 4, 1),
        (14.0, 4, 4),
        (math.inf, 4, 4),
    ],
)
def test_threads_that_fit(left: float, most: int, expected: int) -> None:
    assert fitting(left, most) == expected


def test_processors_that_others_leave() -> None:
    begun, ended = CpuTimes(10.0, 100.0, 5.0), CpuTimes(12.0, 103.5, 7.0)
    assert processors_left(4, begun, ended, 0) == 4 - 0.75
    assert processors_left(4, begun, ended, 0.25) == 4 - 0.25  # the others may have run then
    assert processors_left(4, begun, ended, 1.0) == 4
    assert processors_left(4, begun, replace(ended, busy=101.5), 0) == 4  # own time, seen later


def test_threads_are_given_up_and_taken_back() -> None:
    choice = ThreadChoice(4)
    assert observed(choice, (2.7, SLOW), (4.0, QUICK), (2.7, SLOW)) == [4, 4, 4]  # for a moment
    assert observed(choice, (2.0, SLOW), (2.9, QUICK), (3.1, QUICK)) == [3, 3, 3]
    assert observed(choice, *[(4.0, QUICK)] * UP_AFTER) == [3] * (UP_AFTER - 1) + [4]
    assert observed(choice, (1.2, SLOW), (1.4, SLOW), (2.3, QUICK)) == [4, 1, 1]


def test_fewer_threads_that_are_no_faster_are_not_kept() -> None:
    choice = ThreadChoice(2)
    assert observed(choice, (1.2, QUICK), (1.2, QUICK), (1.0, SLOW)) == [2, 1, 2]
    assert observed(choice, *[(1.0, QUICK)] * (REST_WINDOWS - 1)) == [2] * (REST_WINDOWS - 1)
    assert observed(choice, (1.0, SLOW), (1.0, QUICK)) == [1, 1]


def test_only_steps_of_one_size_are_compared() -> None:
    choice = ThreadChoice(2)
    observed(choice, (1.2, {1: 0.1, 4: 0.2}), (1.2, {1: 0.1, 4: 0.2}))
    assert observed(choice, (1.0, {128: 3.0}), (1.0, {4: 0.1, 128: 3.0})) == [1, 1]
    assert observed(choice, (1.0, {4: 0.9})) == [1], "it was faster when that was asked"


class Readings:
    """The times that a kernel would count beside programs that use `others` processors."""

    def __init__(self, others: float) -> None:
        self.others, self._last = others, CpuTimes(time.monotonic(), 0.0, 0.0)

    def __call__(self) -> CpuTimes:
        now = time.monotonic()
        busy = self._last.busy + self.others * (now - self._last.at)
        self._last = CpuTimes(now, busy, 0.0)
        return self._last


def until(threads: int, sharing: ThreadSharing) -> None:
    """Pretend to compute steps until they have that many threads."""
    end = time.monotonic() + 60
    while True:
        begun = time.monotonic()
        time.sleep(0.01)
        if sharing.threads(1, begun, 0.01) == threads:
            return
        assert time.monotonic() < end


@pytest.mark.skipif(n_cpus() < 2, reason="needs two processors")
def test_it_comes_back_when_it_is_quiet() -> None:
    readings = Readings(others=len(cpus()) - 1.1)
    sharing = ThreadSharing(2, readings)
    until(1, sharing)
    assert 1.1 <= sharing.left < 1.5
    readings.others = 0.0
    until(2, sharing)


def test_a_kernel_that_does_not_count_changes_nothing() -> None:
    sharing = ThreadSharing(2, lambda: None)
    for _ in range(70):
        begun = time.monotonic()
        time.sleep(0.01)
        assert sharing.threads(1, begun, 0.01) == 2
    assert sharing.left == math.inf


def test_what_this_kernel_counts() -> None:
    begun = cpu_times(cpus())
    assert begun is not None
    with busy_programs(1):
        end = time.monotonic() + 1
        while time.monotonic() < end:
            pass
        ended = cpu_times(cpus())
    assert ended is not None
    assert ended.own - begun.own > 0.1
    assert ended.busy - begun.busy > ended.own - begun.own


@contextmanager
def busy_programs(n: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(n):
            program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(program.wait)
            stack.callback(program.kill)
        yield


@pytest.fixture(params=[1, 2])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FullExecutor]:
    """The demo model with a thread for each processor, on one rank or on each of two."""
    limits = Limits(n_ctx=2048, threads=n_cpus(), shares=True)
    if request.param == 2:
        with cut_executor(DEMO, [1, 1], tmp_path / "shards", limits=limits) as cut:
            yield cut
        return
    whole = LocalExecutor(DEMO, limits)
    yield whole
    whole.close()


@pytest.mark.skipif(n_cpus() < 2, reason="needs two processors")
def test_a_model_beside_busy_programs(executor: FullExecutor) -> None:
    """Gives up threads, tells it, and says the same as with all."""
    told = list[tuple[int, ...]]()
    executor.watch_threads(lambda threads: told.append(tuple(threads)))

    def token(position: int, token: int) -> int:
        one = np.ones(1, np.int32)
        kv = [Clear()] if position == 0 else []
        batch = Batch(one * token, one * position, one * 0, [0], 1, kv)
        return int(executor.step(batch).rows[0].ids[0])

    said = [300]
    with busy_programs(n_cpus()):
        end = time.monotonic() + 60
        while not told and time.monotonic() < end:
            said.append(token((len(said) - 1) % 1000, said[-1]))
    assert told
    assert min(told[0]) < n_cpus()
    again = [300]
    for position in range(min(200, len(said) - 1)):
        again.append(token(position, again[-1]))
    assert again == said[: len(again)]
