"""Threads are given up while other programs use the processors, and taken back."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from dure.engine.compute.sharing import (
    REST,
    UP_AFTER,
    StepTimes,
    ThreadChoice,
    ThreadSharing,
)
from dure.engine.executor import Batch, FullExecutor
from dure.engine.kv import Clear
from dure.engine.limits import Limits
from dure.hardware.probe import cpus, idle_s, n_cpus
from tests.support.cut_models import cut_executor, whole_executor

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
QUICK, SLOW = {1: 0.01}, {1: 0.1}

Window = tuple[float, float, dict[int, float]]
"""Threads' worth of time lost, processors that idled, seconds of steps by their number of tokens."""


def observed(choice: ThreadChoice, *windows: Window) -> list[int]:
    return [choice.observe(*window) for window in windows]


def test_threads_are_given_up_and_taken_back() -> None:
    choice = ThreadChoice(4)
    assert observed(choice, (0.8, 0, SLOW), (0, 0, QUICK), (0.8, 0, SLOW)) == [4] * 3  # a moment
    assert observed(choice, (0.7, 0, SLOW), (0.1, 0, QUICK), (0.1, 0.3, QUICK)) == [3] * 3
    quiet = [(0.0, 1.0, QUICK)] * UP_AFTER
    assert observed(choice, *quiet) == [3] * (UP_AFTER - 1) + [4]
    assert observed(choice, (2.1, 0, SLOW), (2.1, 0, SLOW), (0.1, 0, QUICK)) == [4, 2, 2]


@pytest.mark.parametrize("most", [2, 3, 4, 16])
def test_fewer_threads_that_are_no_faster_are_not_kept(most: int) -> None:
    """Those before are taken again, which may be fewer than all."""
    choice = ThreadChoice(most)
    short, next_ = (0.7, 0.0, QUICK), most - 1
    assert observed(choice, short, short, (0.0, 0.0, SLOW)) == [most, next_, most]
    assert observed(choice, *[short] * (REST - 1)) == [most] * (REST - 1)
    quicker = (0.7, 0.0, {1: 0.005})
    assert observed(choice, short, quicker) == [next_, next_]
    if next_ > 1:
        assert observed(choice, quicker, (0.0, 0.0, SLOW)) == [next_ - 1, next_]


def test_threads_that_are_given_up_again_soon_are_not_taken_back_soon() -> None:
    """Two ranks that share a processor with a busy program would take it in turns."""
    choice = ThreadChoice(2)
    short, quiet = (0.7, 0.0, SLOW), (0.0, 1.0, QUICK)
    assert observed(choice, short, short, *[quiet] * UP_AFTER)[-1] == 2
    assert observed(choice, short, short, *[quiet] * (REST - 1)) == [2, *[1] * REST]
    assert observed(choice, quiet) == [2]


def test_only_steps_of_one_size_are_compared() -> None:
    choice = ThreadChoice(2)
    both = (0.7, 0.0, {1: 0.1, 4: 0.2})
    observed(choice, both, both)
    assert observed(choice, (0, 0, {128: 3.0}), (0, 0, {4: 0.1, 128: 3.0})) == [1, 1]
    assert observed(choice, (0, 0, {4: 0.9})) == [1], "it was faster when that was asked"


def test_what_was_seen_before_a_pause_does_not_count() -> None:
    choice = ThreadChoice(2)
    observed(choice, (0.7, 0.0, SLOW))
    choice.forget()
    assert observed(choice, (0.7, 0.0, SLOW), (0.7, 0.0, SLOW)) == [2, 1]


class Idling:
    """Processors of which so many idle, as a kernel would count it."""

    def __init__(self, processors: float) -> None:
        self.processors, self._at, self._idle_s = processors, time.monotonic(), 0.0

    def __call__(self) -> float:
        now = time.monotonic()
        self._idle_s += self.processors * (now - self._at)
        self._at = now
        return self._idle_s


def until(threads: int, sharing: ThreadSharing, lost: float, compute_s: float) -> None:
    """Pretend to compute steps that lose and take so much, until they have that many threads."""
    end = time.monotonic() + 60
    while True:
        begun = time.monotonic()
        time.sleep(0.01)
        if sharing.after_step(1, begun, compute_s, lost) == threads:
            return
        assert time.monotonic() < end


def test_it_comes_back_when_it_is_quiet() -> None:
    idling = Idling(0.0)
    sharing = ThreadSharing(2, idling)
    until(1, sharing, lost=0.6, compute_s=0.1)
    for _ in range(100):
        begun = time.monotonic()
        time.sleep(0.01)
        assert sharing.after_step(1, begun, 0.01, 0.0) == 1
    idling.processors = 1.0
    until(2, sharing, lost=0.0, compute_s=0.01)


def test_a_kernel_that_does_not_count_changes_nothing() -> None:
    sharing = ThreadSharing(2, lambda: None)
    for _ in range(150):
        begun = time.monotonic()
        time.sleep(0.01)
        assert sharing.after_step(1, begun, 0.01, 0.6) == 2


def test_what_a_step_lost_is_the_time_that_its_threads_did_not_run() -> None:
    times = StepTimes()
    time.sleep(0.2)
    assert times.lost(1, 0.0) > 0.9  # asleep, as a thread that others displaced
    times = StepTimes()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert times.lost(2, 0.0) - times.lost(1, 0.0) == pytest.approx(1.0, abs=0.05)


def test_this_kernel_counts_idle_time() -> None:
    before = idle_s(cpus())
    time.sleep(0.2)
    after = idle_s(cpus())
    assert before is not None
    assert after is not None
    assert after >= before >= 0
    assert idle_s([100_000]) is None


def test_programs_that_give_way_count_as_idle_time() -> None:
    """Else threads that were given up would never be taken back beside a program that is always niced."""
    used = "import time\nwhile time.process_time() < 1: sum(range(100_000))"
    before = niced_s()
    subprocess.run(["nice", "-n", "19", sys.executable, "-c", used], check=True)
    assert niced_s() - before >= 0.7  # the kernel looks who runs at every tick


def niced_s() -> float:
    idled, with_niced = idle_s(cpus()), idle_s(cpus(), niced=True)
    assert idled is not None
    assert with_niced is not None
    return with_niced - idled


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
    """The demo model with a thread for each processor, on one rank or on each of two, which thus disturb
    each other as well.
    """
    limits = Limits(n_ctx=2048, threads=n_cpus(), gives_up_threads=True)
    with (
        whole_executor(DEMO, limits)
        if request.param == 1
        else cut_executor(DEMO, [1, 1], tmp_path / "shards", limits=limits)
    ) as running:
        yield running


@pytest.mark.skipif(n_cpus() < 2, reason="needs two processors")
def test_a_model_beside_busy_programs(executor: FullExecutor) -> None:
    """Gives up threads, tells it, and says the same as with all."""
    told = list[tuple[int, ...]]()
    executor.watch_threads(lambda given_up: told.append(tuple(given_up)))

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
    assert max(told[0]) > 0
    again = [300]
    for position in range(min(200, len(said) - 1)):
        again.append(token(position, again[-1]))
    assert again == said[: len(again)]
