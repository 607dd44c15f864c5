"""The native sums under real ranks, and the best logits of a slice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.engine.compute.top_k import merge_top_k, slice_top_k
from dure.engine.ranks.launch import LocalLaunch
from tests.support.all_reduce_rank import digest, vector

FINITE = ("normal", "huge", "tiny", "denormal", "zero")
SIZE = 32 * 33
NEVER, ALWAYS = 1e18, 0.0


def _run(n_ranks: int, **job: Any) -> list[dict[str, Any]]:
    """What every rank wrote, in the order of the ranks."""
    mpiexec = Path(sysconfig.get_path("scripts")) / "mpiexec"
    script = Path(__file__).parents[1] / "support" / "all_reduce_rank.py"
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [mpiexec, "-n", str(n_ranks), sys.executable, script, directory, json.dumps(job)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **LocalLaunch().environment()},
            check=False,
        )
        written = [json.loads(file.read_bytes()) for file in sorted(Path(directory).glob("*.json"))]
    assert written, done.stdout + done.stderr
    return written


def _floats(words: list[int]) -> npt.NDArray[np.float32]:
    return np.array(words, np.uint32).view(np.float32)


@pytest.mark.parametrize("two_phase_above", [NEVER, ALWAYS])
@pytest.mark.parametrize("n_ranks", [2, 3, 4, 5])
def test_float32_sums_are_the_sums_in_the_order_of_the_ranks(
    n_ranks: int, two_phase_above: float
) -> None:
    """Every rank gets the same bits as adding the vectors one after the other."""
    lines = _run(
        n_ranks,
        wire="f32",
        two_phase_above=two_phase_above,
        wait_s=20,
        kinds=FINITE,
        size=SIZE,
    )
    for kind in FINITE:
        expected = np.zeros(SIZE, np.float32)
        for rank in range(n_ranks):
            expected += vector(kind, rank, SIZE)
        for line in lines:
            assert line[kind] == expected.view(np.uint32).tolist()


@pytest.mark.parametrize("two_phase_above", [NEVER, ALWAYS])
@pytest.mark.parametrize("n_ranks", [2, 3, 5])
def test_8_bit_sums_are_alike_on_every_rank_and_near(n_ranks: int, two_phase_above: float) -> None:
    """The replicas' bits are equal, and each block's error is within half a step of each rounding."""
    lines = _run(
        n_ranks, wire="q8", two_phase_above=two_phase_above, wait_s=20, kinds=FINITE, size=SIZE
    )
    for kind in FINITE:
        assert all(line[kind] == lines[0][kind] for line in lines)
        vectors = np.stack([vector(kind, rank, SIZE) for rank in range(n_ranks)]).astype(np.float64)
        exact = vectors.sum(axis=0)
        most = _half_steps(vectors).sum(axis=0)
        if n_ranks > 2:
            most = most + 1.02 * _half_steps(exact[None] + most)[0]
        assert (np.abs(_floats(lines[0][kind]) - exact) <= most + 1e-37).all()


@pytest.mark.parametrize("n_ranks", [3, 5])
def test_8_bit_sums_are_the_same_in_one_phase_and_in_two(n_ranks: int) -> None:
    """The length of a vector and the links decide between the two, and must not decide a text."""
    sums = [
        _run(n_ranks, wire="q8", two_phase_above=above, wait_s=20, kinds=FINITE, size=SIZE)[0]
        for above in (NEVER, ALWAYS)
    ]
    for kind in FINITE:
        assert sums[0][kind] == sums[1][kind]


@pytest.mark.parametrize("two_phase_above", [NEVER, ALWAYS, None])
@pytest.mark.parametrize("n_ranks", [2, 3])
def test_a_vector_of_more_pieces_than_receives_are_posted_is_summed(
    n_ranks: int, two_phase_above: float | None
) -> None:
    """Of 60 pieces, the last one short: 8 receives are posted ahead a rank."""
    size = 59 * 64 * 1024 // 4 + 32
    lines = _run(
        n_ranks,
        wire="f32",
        two_phase_above=two_phase_above,
        wait_s=20,
        kinds=["normal", "tiny"],
        size=size,
        digest=True,
    )
    for kind in ("normal", "tiny"):
        expected = np.zeros(size, np.float32)
        for rank in range(n_ranks):
            expected += vector(kind, rank, size)
        for line in lines:
            assert line[kind] == digest(expected)


def _half_steps(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Half of each block's step, for every value: a 127th of the largest, rounded up to bfloat16."""
    blocks = np.abs(vectors).reshape(len(vectors), -1, 32).max(axis=2)
    return np.repeat(blocks / 127 * (1 + 2**-7) / 2, 32, axis=1)


@pytest.mark.parametrize("wire", ["q8", "f32"])
def test_what_is_not_finite_does_not_vanish(wire: str) -> None:
    """An infinity or a NaN on one rank shows on all of them, and leaves other blocks alone."""
    kinds = ("infinite", "nan")
    lines = _run(3, wire=wire, two_phase_above=NEVER, wait_s=20, kinds=kinds, size=SIZE)
    for line in lines:
        assert not np.isfinite(_floats(line["infinite"])[SIZE // 2])
        assert np.isnan(_floats(line["nan"])[5])
        assert np.isfinite(_floats(line["nan"])[32:]).all()


def test_a_rank_that_stops_is_named_when_the_wait_is_over() -> None:
    """Rank 2 of 3 is halted before a sum; the others end and say whom they waited for."""
    lines = _run(
        3, wire="q8", two_phase_above=NEVER, wait_s=0.5, kinds=["normal"], size=SIZE, stop_rank=2
    )
    assert lines
    for line in lines:
        assert line["error"].startswith("rank 2 did not answer within 0.5 s")


# ---------------------------------------------------------------- the best logits


@settings(deadline=None, max_examples=200)
@given(
    n=st.integers(1, 3000),
    part=st.floats(0, 1),
    levels=st.sampled_from([2, 7, 1000, 10**7]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_best_logits_are_those_of_a_stable_sort(
    n: int, part: float, levels: int, seed: int
) -> None:
    """For any k, also among many equals; and the log-sum-exp is numpy's."""
    random = np.random.default_rng(seed)
    logits = (random.integers(0, levels, n) * (30 / levels) - 15).astype(np.float32)
    if n > 3:
        logits[random.integers(0, n)] = -np.inf
    k = 1 + int(part * (n - 1))
    ids, best, log_sum_exp = slice_top_k(logits, k, 100)
    assert sorted(ids.tolist()) == sorted((100 + np.argsort(-logits, kind="stable")[:k]).tolist())
    assert (best == logits[ids - 100]).all()
    if k > 1:
        exact = np.log(np.exp(logits.astype(np.float64)).sum())
        assert abs(log_sum_exp - exact) < 1e-5


@settings(deadline=None, max_examples=200)
@given(below=st.floats(0, 100), n=st.integers(1, 40), best=st.sampled_from([-70, 0, 70]))
def test_the_log_of_exponentials_is_exact_to_two_millionths(
    below: float, n: int, best: int
) -> None:
    """One logit, and n others all equally far below it, so that no error hides in a mean."""
    logits = np.full(n + 1, best - below, np.float32)
    logits[n // 2] = best
    _, _, log_sum_exp = slice_top_k(logits, 2, 0)
    difference = np.float64(logits[-1]) - best  # as float32 has it
    exact = best + np.log1p(n * np.exp(difference))
    assert abs(log_sum_exp - exact) <= 2e-6 + 2**-23 * abs(exact)


@settings(deadline=None, max_examples=100)
@given(
    borders=st.lists(st.integers(1, 999), max_size=4, unique=True),
    k=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_best_of_all_slices_are_the_best_of_the_whole(
    borders: list[int], k: int, seed: int
) -> None:
    """However a vocabulary is cut, its ranks' best hold the best, in the same order."""
    logits = (np.random.default_rng(seed).integers(-50, 50, 1000) / 8).astype(np.float32)
    edges = [0, *sorted(borders), 1000]
    slices = [slice_top_k(logits[a:b].copy(), k, a) for a, b in pairwise(edges)]
    best = merge_top_k(slices, k, 1000)
    assert best.ids.tolist() == np.argsort(-logits, kind="stable")[:k].tolist()
    assert best.logits.tolist() == logits[best.ids].tolist()
    if k > 1:
        assert abs(best.log_sum_exp - np.log(np.exp(logits.astype(np.float64)).sum())) < 1e-4
