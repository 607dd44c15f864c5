"""The offloaded AdamW is an optimizer as torch has it; what it cannot do it refuses by name."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dure.errors import UsageError
from dure.tune.optimizer import OffloadedAdamW
from dure.tune.state_format import StateFormat


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def backward(loss: Tensor) -> None:
    loss.backward()


class Failing(torch.autograd.Function):
    """A backward pass that fails where this is."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(*_: Any) -> Tensor:
        raise FloatingPointError("in the middle")


failing: Callable[[Tensor], Tensor] = Failing.apply


def test_a_closure_is_called_with_gradients_on_and_its_loss_returned() -> None:
    one = parameter(300)
    optimizer = OffloadedAdamW([one], 0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = one.square().sum()
        backward(loss)
        return loss.item()

    losses = [optimizer.step(closure) for _ in range(30)]
    assert losses[-1] < losses[0] / 20


def test_a_parameter_without_gradient_stays_as_it_is() -> None:
    used, unused, frozen = parameter(9), parameter(9), parameter(9).requires_grad_(False)
    before = unused.detach().clone(), frozen.detach().clone()
    optimizer = OffloadedAdamW([used, unused, frozen], max_norm=1.0)
    backward(used.sum())
    optimizer.step()
    assert torch.equal(unused, before[0])
    assert torch.equal(frozen, before[1])
    assert set(optimizer.state_dict()["state"]) == {0}


@pytest.mark.parametrize("overlap", [True, False])
def test_a_tied_weight_moves_once(overlap: bool) -> None:
    tied = parameter(12, 12)
    model = nn.Sequential(nn.Linear(12, 12, bias=False), nn.Linear(12, 12, bias=False))
    for layer in model:
        layer.weight = tied
    ours = OffloadedAdamW(model.parameters(), 1e-2, overlap=overlap)
    other = copy.deepcopy(tied)
    theirs = torch.optim.AdamW([other], 1e-2)
    x = torch.randn(4, 12)
    backward(model(x).square().sum())
    backward((x @ other.t() @ other.t()).square().sum())
    ours.step()
    theirs.step()
    torch.testing.assert_close(tied, other, rtol=1e-6, atol=1e-7)


def test_gradients_are_forgotten_as_torch_forgets_them() -> None:
    one = parameter(70)
    optimizer = OffloadedAdamW([one])
    backward(one.sum())
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    assert one.grad is not None
    assert not one.grad.any()
    optimizer.zero_grad()
    assert one.grad is None


@pytest.mark.parametrize("overlap", [True, False])
def test_gradients_accumulate_and_only_the_last_pass_begins(overlap: bool) -> None:
    ours, theirs = parameter(500), parameter(500)
    optimizer = OffloadedAdamW([ours], 0.1, overlap=overlap, max_norm=1.0)
    reference = torch.optim.AdamW([theirs], 0.1)
    for _ in range(5):
        with optimizer.accumulating():
            backward((ours.sin() * 3).sum())
            backward(ours.square().sum())
        backward(ours.exp().sum())
        optimizer.step()
        optimizer.zero_grad()
        backward((theirs.sin() * 3).sum() + theirs.square().sum() + theirs.exp().sum())
        norm = nn.utils.clip_grad_norm_([theirs], 1.0)
        assert optimizer.last_norm == pytest.approx(norm.item(), rel=1e-6)
        reference.step()
        reference.zero_grad()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_second_pass_without_accumulating_is_refused() -> None:
    one = parameter(500)
    optimizer = OffloadedAdamW([one])
    optimizer.zero_grad()
    backward(one.sum())
    with pytest.raises(UsageError, match=r"second backward pass before step\(\).*accumulating\(\)"):
        backward(one.sum())


@pytest.mark.parametrize("max_norm", [1e9, 0.1])
@pytest.mark.parametrize("state", StateFormat)
def test_a_gradient_that_is_not_finite_skips_the_step(state: StateFormat, max_norm: float) -> None:
    """Also when moments of others have moved already; the run goes on as if it had not been."""
    results = []
    for spoilt in (True, False):
        first, last = parameter(1000), parameter(1000, seed=1)
        optimizer = OffloadedAdamW([first, last], 1e-2, state=state, max_norm=max_norm)
        for step in range(30):
            if step == 20 and not spoilt:
                continue
            slope = torch.randn(1000, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            factor = math.nan if step == 20 else 1.0
            weights = first.detach().clone()
            backward((first * slope).sum() + (last * slope * factor).sum())
            optimizer.step()
            assert torch.equal(weights, first) == (step == 20)
        assert optimizer.n_skipped == spoilt
        results.append(torch.cat([first.detach(), last.detach()]))
    atol = {"fp32": 1e-6, "bf16": 2e-3, "8bit": 2e-2}[state]  # of 0.3 that each moves
    torch.testing.assert_close(*results, rtol=0, atol=atol)


def test_gradients_are_freed_as_they_are_used_if_that_is_asked_for() -> None:
    ours, theirs = parameter(1 << 18), parameter(1 << 18)
    optimizer = OffloadedAdamW([ours], 1e-2, release=True)
    reference = torch.optim.AdamW([theirs], 1e-2)
    for _ in range(3):
        backward(ours.square().sum())
        assert ours.grad is None
        optimizer.step()
        reference.zero_grad()
        backward(theirs.square().sum())
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    with pytest.raises(UsageError, match="only with overlap and without max_norm"):
        OffloadedAdamW([ours], release=True, max_norm=1.0)


def test_without_a_largest_norm_only_values_near_it_are_left_out() -> None:
    one = parameter(64 * 40)
    before = one.detach().clone()
    optimizer = OffloadedAdamW([one])
    slope = torch.ones_like(one)
    slope[200] = math.inf
    backward((one * slope).sum())
    optimizer.step()
    stayed = (one == before).nonzero().flatten()
    assert stayed.tolist() == list(range(192, 256))
    assert optimizer.n_skipped == 1


@pytest.mark.parametrize("max_norm", [None, 1e9])
def test_a_backward_pass_that_fails_is_told_and_undone(max_norm: float | None) -> None:
    """Moments are as they were; without a largest norm what has moved has made its step."""
    early, late = parameter(1 << 18), parameter(100)
    optimizer = OffloadedAdamW([early, late], 1e-2, max_norm=max_norm)
    for _ in range(8):  # until second moments are large enough for moments to move early
        optimizer.zero_grad()
        backward(early.sum() + late.sum())
        optimizer.step()
    before = copy.deepcopy(optimizer.state_dict()["state"])
    weights = early.detach().clone()
    optimizer.zero_grad()
    with pytest.raises(FloatingPointError, match="in the middle"):
        backward((failing(late.clone()).sum() * early).sum())
    with pytest.raises(UsageError, match="did not finish"):
        optimizer.step()
    optimizer.zero_grad()
    after = optimizer.state_dict()["state"]
    if max_norm is None:
        assert after[0]["step"] == before[0]["step"] + 1
        assert not torch.equal(early, weights)
    else:
        torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-9)
        assert torch.equal(early, weights)
    backward(early.sum() + late.sum())
    optimizer.step()
    assert optimizer.state_dict()["state"][1]["step"] == 9


def test_a_step_may_be_left_out_where_that_is_possible() -> None:
    """With a largest norm nothing has happened; without, weights have moved, and that is told."""
    one = parameter(1 << 18)
    before = one.detach().clone()
    optimizer = OffloadedAdamW([one], max_norm=1.0)
    backward(one.sum())
    optimizer.zero_grad()
    assert torch.equal(one, before)
    optimizer = OffloadedAdamW([one], overlap=False)
    backward(one.sum())
    optimizer.zero_grad()
    assert torch.equal(one, before)
    optimizer = OffloadedAdamW([one])
    one.grad = None
    backward(one.sum())
    with pytest.raises(UsageError, match=r"applied while they came: call step\(\)"):
        optimizer.zero_grad()


@pytest.mark.parametrize("max_norm", [None, 20.0])
@pytest.mark.parametrize("state", StateFormat)
def test_a_resumed_run_repeats_every_bit(state: StateFormat, max_norm: float | None) -> None:
    def begun() -> tuple[list[nn.Parameter], OffloadedAdamW]:
        ps = [
            nn.Parameter(torch.ones(33, 7)),
            nn.Parameter(torch.ones(70, dtype=torch.bfloat16)),
        ]
        return ps, OffloadedAdamW(ps, 1e-2, state=state, max_norm=max_norm, seed=5)

    def go_on(ps: list[nn.Parameter], optimizer: OffloadedAdamW, steps: range) -> None:
        for step in steps:
            chance = torch.Generator().manual_seed(step)
            backward(
                torch.stack([(p * torch.randn(p.shape, generator=chance)).sum() for p in ps]).sum()
            )
            optimizer.step()
            optimizer.zero_grad()

    whole, optimizer = begun()
    go_on(whole, optimizer, range(40))
    saved = copy.deepcopy((optimizer.state_dict(), [p.detach() for p in whole]))
    go_on(whole, optimizer, range(40, 60))
    resumed, second = begun()
    for one, value in zip(resumed, saved[1], strict=True):
        one.data.copy_(value)
    second.load_state_dict(saved[0])
    go_on(resumed, second, range(40, 60))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    ends = optimizer.state_dict()["state"], second.state_dict()["state"]
    torch.testing.assert_close(*ends, rtol=0, atol=0)
    again, third = begun()
    go_on(again, third, range(60))
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


def test_a_state_of_torchs_own_is_taken_over_and_of_another_format_refused() -> None:
    ours, theirs = parameter(50), parameter(50)
    reference = torch.optim.AdamW([theirs], 1e-2)
    for _ in range(3):
        theirs.grad = torch.ones(50)
        reference.step()
    optimizer = OffloadedAdamW([ours])
    ours.data.copy_(theirs)
    optimizer.load_state_dict(reference.state_dict())
    ours.grad, theirs.grad = torch.full((50,), 2.0), torch.full((50,), 2.0)
    optimizer.step()
    reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    with pytest.raises(UsageError, match=r"is fp32, this optimizer's is 8bit: .*state='fp32'"):
        OffloadedAdamW([ours], state="8bit").load_state_dict(optimizer.state_dict())


def test_what_cannot_be_computed_is_refused_by_name() -> None:
    one = parameter(4)
    for name in ("amsgrad", "maximize", "capturable", "differentiable"):
        with pytest.raises(UsageError, match=f"{name}=True"):
            OffloadedAdamW([one], **{name: True})  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=f"{name}=True"):
            OffloadedAdamW([{"params": [one], name: True}])
    for dtype in (torch.float16, torch.float64, torch.complex64):
        named = {"params": [("deep.weight", nn.Parameter(torch.ones(2, dtype=dtype)))]}
        with pytest.raises(UsageError, match=f"deep.weight, of shape .2., is {dtype}"):
            OffloadedAdamW([named])
    with pytest.raises(UsageError, match="state='4bit': one of fp32, bf16, 8bit"):
        OffloadedAdamW([one], state="4bit")
    with pytest.raises(UsageError, match="lr=-1"):
        OffloadedAdamW([one], -1)
    with pytest.raises(UsageError, match="betas="):
        OffloadedAdamW([one], betas=(0.9, 1.0))
    with pytest.raises(UsageError, match="max_norm=0"):
        OffloadedAdamW([one], max_norm=0)


@pytest.mark.parametrize("overlap", [True, False])
def test_a_sparse_gradient_is_refused(overlap: bool) -> None:
    embedding = nn.Embedding(10, 4, sparse=True)
    optimizer = OffloadedAdamW(embedding.parameters(), overlap=overlap)
    with pytest.raises(UsageError, match=r"gradient is sparse .*sparse=False"):  # noqa: PT012
        backward(embedding(torch.tensor([1, 2])).sum())
        optimizer.step()


def test_a_parameter_with_gaps_in_memory_moves_as_any_other() -> None:
    """It is computed in a mirror, as one of a GPU is."""
    wide = torch.randn(30, 20)
    kept = wide.clone()
    ours, theirs = nn.Parameter(wide[:, ::2]), nn.Parameter(wide[:, ::2].clone())
    optimizer, reference = OffloadedAdamW([ours], 1e-2), torch.optim.AdamW([theirs], 1e-2)
    for step in range(4):
        if step == 2:  # as a model's state is loaded in the middle
            with torch.no_grad():
                ours.mul_(2)
                theirs.mul_(2)
        for one, kind in ((ours, optimizer), (theirs, reference)):
            kind.zero_grad()
            backward(one.square().sum())
            kind.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert torch.equal(wide[:, 1::2], kept[:, 1::2])


def test_it_is_freed_with_its_last_user() -> None:
    """Hooks of the parameters do not keep it, nor its memory."""
    one = parameter(10)
    optimizer = OffloadedAdamW([one])
    backward(one.sum())
    optimizer.step()
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    backward(one.sum())
