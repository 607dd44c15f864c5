"""A thread of the optimizer that fails: the step is told to have failed, and leaves nothing half done.

Python lets a debugger's hook raise in any thread, which is how `quit` ends a debugged program.
"""

from __future__ import annotations

import copy
import itertools
import threading
from bdb import BdbQuit
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

from dure.tune.optimizer import OffloadedAdamW

# Values: two parts, so that another thread does all; one part, which nobody does then.
SIZES = (1 << 21, 1 << 18)


@contextmanager
def debugged() -> Iterator[None]:
    """Let the first thread of the block that computes for the optimizer end with BdbQuit."""
    count = itertools.count()

    def trace(frame: FrameType, _event: str, _value: Any) -> None:
        is_work = frame.f_globals["__name__"] == "dure.tune.optimizer.round"
        if is_work and frame.f_code.co_name == "do" and next(count) == 0:
            raise BdbQuit

    before = threading.gettrace()
    threading.settrace(trace)
    try:
        yield
    finally:
        threading.settrace(before)


def learned(optimizer: OffloadedAdamW, weights: nn.Parameter) -> None:
    optimizer.zero_grad()
    weights.grad = None
    weights.square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("n", SIZES)
def test_a_step_whose_thread_failed_is_undone_and_the_next_one_is_right(n: int) -> None:
    """With a largest norm, where moments move while gradients come."""
    weights, theirs = (nn.Parameter(torch.linspace(-1, 1, n)) for _ in range(2))
    first = OffloadedAdamW([weights], 1e-2, max_norm=1e9, threads=2)
    reference = torch.optim.AdamW([theirs], 1e-2)
    for _ in range(4):  # until moments move early
        learned(first, weights)
    saved = copy.deepcopy(first.state_dict())
    del first
    with debugged():  # of threads that begin now
        optimizer = OffloadedAdamW([weights], 1e-2, max_norm=1e9, threads=2)
        optimizer.load_state_dict(saved)
        before = copy.deepcopy((optimizer.state_dict()["state"], weights.detach()))
        with pytest.raises(BdbQuit):
            learned(optimizer, weights)
    torch.testing.assert_close(optimizer.state_dict()["state"], before[0], rtol=1e-6, atol=1e-9)
    assert torch.equal(weights, before[1])
    learned(optimizer, weights)
    for _ in range(5):
        reference.zero_grad()
        theirs.square().sum().backward()
        reference.step()
    torch.testing.assert_close(weights, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", SIZES)
def test_without_a_largest_norm_a_parameter_moves_whole_or_not_at_all(n: int) -> None:
    weights, theirs = (nn.Parameter(torch.linspace(-1, 1, n)) for _ in range(2))
    with debugged():
        optimizer = OffloadedAdamW([weights], 1e-2, threads=2)
        with pytest.raises(BdbQuit):
            learned(optimizer, weights)
    has_moved = n == SIZES[0]
    assert optimizer.state_dict()["state"][0]["step"] == has_moved
    if has_moved:
        theirs.square().sum().backward()
        torch.optim.AdamW([theirs], 1e-2).step()
    torch.testing.assert_close(weights, theirs, rtol=1e-6, atol=1e-7)
