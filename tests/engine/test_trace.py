"""Where the time of a step goes: the arithmetic, and what real ranks note."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dure.engine.kv import Clear, Forget
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.engine.ranks.mpi import MpiExecutor
from dure.engine.trace import PARTS, RankTrace, StepTrace, chrome_events, parts_of
from dure.errors import UsageError
from dure.model.architectures import architecture_of, shape_of
from dure.model.gguf import open_gguf
from tests.support.cut_models import cut_executor, step
from tests.support.dure_process import Dure

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"


def two_ranks(clock_s: float) -> list[RankTrace]:
    """Two steps of one layer. Rank 1 is slower to its sums; its clock is ahead by clock_s."""
    first = np.array([[2.0, 2.1, 4.5, 4.6], [5.0, 5.1, 6.5, 6.6]])
    second = np.array([[3.9, 4.0, 4.4, 4.6], [5.9, 6.0, 6.3, 6.6]])
    return [
        RankTrace(0.0, tuple(StepTrace(1.0 + t, 7.0 + t, first + t) for t in (0, 10))),
        RankTrace(
            clock_s,
            tuple(StepTrace(1.2 + t, 7.0 + t, second + t) for t in (clock_s, clock_s + 10)),
        ),
    ]


@pytest.mark.parametrize("clock_s", [0.0, -5000.0, 1e6])
def test_time_is_told_apart_by_who_came_last(clock_s: float) -> None:
    """Whatever the machines' clocks say."""
    fast, slow = parts_of(two_ranks(clock_s))
    expected = {"attention": 1.0, "feed_forward": 0.4, "head": 0.4, "encode": 0.4, "between": 2.0}
    assert fast == pytest.approx({**expected, "wait": 1.9 + 0.9, "wire": 0.5 + 0.5})
    expected = {"attention": 2.7, "feed_forward": 1.3, "head": 0.4, "encode": 0.7, "between": 2.1}
    assert slow == pytest.approx({**expected, "wait": 0.0, "wire": 0.4 + 0.3})


def test_a_picture_has_every_piece_once() -> None:
    events = chrome_events(two_ranks(3.0), ["pi-1", "pi-2"])
    names = [e["args"]["name"] for e in events if e["ph"] == "M"]
    assert names == ["rank 0 on pi-1", "rank 1 on pi-2"]
    for rank in (0, 1):
        pieces = sorted((e["ts"], e["dur"]) for e in events if e["ph"] == "X" and e["pid"] == rank)
        assert pieces[0][0] == pytest.approx(0.0 if rank == 0 else 0.2e6)
        for (ts, dur), (after, _) in pairwise(pieces):
            assert after == pytest.approx(ts + dur)


def test_ranks_note_every_sum_of_every_step(tmp_path: Path) -> None:
    """And nothing once they are no more asked."""
    with cut_executor(DEMO, [1, 1], tmp_path) as executor:
        assert isinstance(executor, MpiExecutor)
        step(executor, [300], 0, kv=[Clear()])
        executor.trace()
        for n in range(1, 4):
            step(executor, [300 + n], n)
        ranks = executor.traced()
        step(executor, [304], 4)
        assert [len(rank.steps) for rank in executor.traced()] == [0, 0]
        read, exchange_s = executor.probe(2176)
    assert len(read) == 2
    assert min(read) > 1e8
    assert exchange_s > 0
    check_steps(ranks, 3)
    for parts, rank in zip(parts_of(ranks), ranks, strict=True):
        assert set(parts) == set(PARTS)
        assert min(parts.values()) >= 0
        took = rank.steps[-1].ended - rank.steps[0].begun
        assert 3 * sum(parts.values()) == pytest.approx(took, rel=1e-6)


def check_steps(ranks: list[RankTrace], n_steps: int) -> None:
    """Every step has two sums a layer, one after the other."""
    with open_gguf(DEMO) as gguf:
        n_layer = shape_of(gguf).n_layer
    for rank in ranks:
        assert len(rank.steps) == n_steps
        for noted in rank.steps:
            assert len(noted.reductions) == 2 * n_layer
            times = np.concatenate([[noted.begun], noted.reductions.ravel(), [noted.ended]])
            assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_whole_model_notes_its_layers(n_threads: int) -> None:
    """In a step of its own and in one of a long prompt; what it computes is the same."""
    with open_gguf(DEMO) as gguf:
        points = architecture_of(gguf).reduction_points
    executor = LocalExecutor(DEMO, Limits(512, n_threads), reduction_points=points)
    untraced = step(executor, [*range(300, 340)], 0)
    assert [len(rank.steps) for rank in executor.traced()] == [0]
    executor.trace()
    traced = step(executor, [*range(300, 340)], 0, kv=[Forget(0)])
    step(executor, [340], 40)
    (rank,) = executor.traced()
    check_steps([rank], 2)
    assert (traced == untraced).all()
    (parts,) = parts_of([rank])
    assert {name for name, seconds in parts.items() if seconds} == {
        *("attention", "feed_forward", "head", "between")
    }
    step(executor, [341], 41)
    assert executor.traced()[0].steps == ()
    executor.close()


def test_a_model_without_a_table_cannot_be_traced(tmp_path: Path) -> None:
    """Nothing says where its layers are."""
    executor = LocalExecutor(DEMO, Limits(256, threads=1))
    with pytest.raises(UsageError, match=r"architecture whose layers .* leave out --trace"):
        executor.trace()
    executor.close()


def test_the_command_writes_a_file_and_tells_a_floor(tmp_path: Path) -> None:
    dure = Dure(tmp_path / "cache")
    file = tmp_path / "trace.json"
    options = ("-p", 8, "-n", 4, "--repeat", 1, "--trace", file)
    done = dure("bench", DEMO, "--ranks", 2, *options)
    assert done.returncode == 0, done.stderr
    assert "wait for the slowest rank" in done.stdout
    assert "floor" in done.stdout
    events = json.loads(file.read_text())["traceEvents"]
    assert {e["name"] for e in events} >= {"attention", "feed forward", "wait", "wire", "between"}
    told = json.loads(dure("bench", DEMO, "--ranks", 2, *options, "--json").stdout)["trace"]
    assert len(told["per_token_ms_by_rank"]) == 2
    assert min(told["floor_ms"].values()) > 0
    alone = dure("bench", DEMO, *options)
    assert "compute attention" in alone.stdout
    assert "wire" not in alone.stdout
    assert "an exchange takes" not in alone.stdout
    events = json.loads(file.read_text())["traceEvents"]
    assert {e["name"] for e in events if e["ph"] == "X"} >= {"attention", "feed forward", "head"}
