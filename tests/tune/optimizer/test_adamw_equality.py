"""The offloaded AdamW computes what torch's does, whatever is done at once with the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dure.tune.optimizer import OffloadedAdamW
from dure.tune.state_format import StateFormat

SHAPES = ((70, 33), (5,), (128, 64), (1,), (3, 4, 5), (700, 40))
LR, DECAY, N_STEPS = 1e-3, 0.05, 200
Make = Callable[[list[nn.Parameter]], Optimizer]


def torchs(parameters: Iterable[Tensor]) -> Optimizer:
    """The reference: its fused form reads transposed gradients in the wrong order."""
    return torch.optim.AdamW(parameters, LR, weight_decay=DECAY, foreach=False, fused=False)


def gradients(step: int) -> list[Tensor]:
    """Return gradients, in some steps ten times larger ones; some lie transposed."""
    chance = torch.Generator().manual_seed(step)
    found = [torch.randn(*shape, generator=chance) for shape in SHAPES]
    if step % 17 == 16:
        found = [10 * one for one in found]
    found[0] = found[0].t().contiguous().t()
    found[4] = found[4].permute(2, 0, 1).contiguous().permute(1, 2, 0)
    return found


def trained(make: Make, max_norm: float | None = None, n_steps: int = N_STEPS) -> list[Tensor]:
    """Return the parameters after some steps. max_norm: clip to it, if the optimizer does not."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(0.1 * torch.randn(*shape)) for shape in SHAPES]
    parameters[2].data = parameters[2].data.t().contiguous().t()
    optimizer = make(parameters)
    for step in range(n_steps):
        terms = zip(parameters, gradients(step), strict=True)
        torch.stack([(p * g).sum() for p, g in terms]).sum().backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach() for parameter in parameters]


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """To 1e-6: of each tensor as a whole, and of each value beside its tensor's largest."""
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= 1e-6 * other.norm()
        assert (one - other).abs().max() <= 1e-6 * other.abs().max()


@pytest.mark.parametrize("overlap", [False, True])
# None; hardly ever clipped, so that moments move early and are corrected; always.
@pytest.mark.parametrize("max_norm", [None, 270.0, 1.0])
def test_200_steps_end_where_torchs_do(max_norm: float | None, overlap: bool) -> None:
    """With transposed parameters and gradients, and gradients that are suddenly ten times as large."""
    ours = trained(
        lambda ps: OffloadedAdamW(
            ps, LR, weight_decay=DECAY, max_norm=max_norm, overlap=overlap, threads=2
        )
    )
    assert_equal(ours, trained(torchs, max_norm))


def test_what_is_done_early_changes_no_bit_unless_a_step_is_clipped() -> None:
    early, late = (
        trained(
            lambda ps, overlap=overlap: OffloadedAdamW(ps, LR, max_norm=1e5, overlap=overlap),  # type: ignore[misc]
            n_steps=40,
        )
        for overlap in (True, False)
    )
    assert all(torch.equal(a, b) for a, b in zip(early, late, strict=True))


@pytest.mark.parametrize("state", ["fp32", "bf16", "8bit"])
def test_bfloat16_weights_follow_float32_ones(state: StateFormat) -> None:
    """Though a step is a twentieth of what separates two bfloat16 numbers there."""
    torch.manual_seed(0)
    start = (torch.rand(4096) + 0.5).to(torch.bfloat16)
    exact, ours = nn.Parameter(start.float()), nn.Parameter(start.clone())
    theirs = torch.optim.AdamW([exact], 1e-4, weight_decay=0)
    optimizer = OffloadedAdamW([ours], 1e-4, weight_decay=0, state=state)
    for step in range(200):
        slope = torch.randn(4096, generator=torch.Generator().manual_seed(step)) + 1
        ours.grad = slope.to(torch.bfloat16)
        exact.grad = ours.grad.float()
        theirs.step()
        optimizer.step()
    moved, wanted = (p.detach().to(torch.bfloat16).float() - start.float() for p in (ours, exact))
    assert moved.mean().item() == pytest.approx(wanted.mean().item(), rel=0.02)
    assert (moved - wanted).abs().max() <= 2**-7  # the next number; where it matters, few are there
    assert (moved == wanted).float().mean() >= {"fp32": 0.99, "bf16": 0.95, "8bit": 0.8}[state]


def test_learning_rates_differ_by_group_and_schedulers_change_them() -> None:
    def run(kind: Callable[..., Optimizer]) -> list[Tensor]:
        torch.manual_seed(1)
        a, b, c = (nn.Parameter(torch.randn(40, 7)) for _ in range(3))
        optimizer = kind(
            [{"params": [a], "lr": torch.tensor(1e-2)}, {"params": [b], "betas": (0.8, 0.95)}],
            lr=1e-3,
        )
        optimizer.add_param_group({"params": [c], "weight_decay": 0.3, "eps": 1e-3})
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        for _ in range(20):
            optimizer.zero_grad()
            ((a * b).sum().square() + (c * b).sin().sum()).backward()
            optimizer.step()
            schedule.step()
        return [a.detach(), b.detach(), c.detach()]

    assert_equal(run(OffloadedAdamW), run(torch.optim.AdamW))
