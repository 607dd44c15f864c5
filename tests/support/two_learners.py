"""What two processes do together for tests/tune/test_tune_several.py, which starts both.

In one pair of processes, since each takes seconds to begin. Writes what came of it; judges nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial

from dure.errors import UsageError
from dure.tune.loop.events import Notice, StepLearned, TuneEvent
from dure.tune.loop.learner import Learner
from dure.tune.loop.losses import Arith, RowLoss
from dure.tune.loop.run import tune_model
from dure.tune.loop.shared import shared_model
from dure.tune.loop.training import Stopped
from dure.tune.optimizer import OffloadedAdamW
from dure.tune.peers.group import Peers, joined
from dure.tune.settings import Arithmetic, StateFormat, TuneMethod, TuneSettings

STEPS = 6
FULL = TuneSettings(
    base=Path("base"),
    data=("chats.jsonl",),
    method=TuneMethod.FULL,
    lr=3e-3,
    ctx=128,
    batch=1,
    accumulate=5,  # the first process has three rows, the second two
    steps=STEPS,
    eval_split=0.2,
    eval_every=3,
    dtype=Arithmetic.FLOAT32,
)
LORA = replace(FULL, method=TuneMethod.LORA, rank=4)


class OddModel(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Matrices and vectors of which some have fewer rows than there are processes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(7, 33), nn.LayerNorm(33), nn.Linear(33, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [rows, 7]. Returns the mean of squares, a scalar."""
        found: Tensor = self.last(self.norm(self.first(x)).sin()).square().mean()
        return found


def divided() -> OddModel:
    model = OddModel()
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model.first, mesh=mesh)
    found: OddModel = fully_shard(model, mesh=mesh)
    return found


def rows_of(step: int) -> Tensor:
    """Return the rows of a step; some are ten times larger, so that they are clipped."""
    rows = torch.randn(8, 7, generator=torch.Generator().manual_seed(step))
    return rows * (10 if step % 5 == 4 else 1)


def learn(
    model: Callable[[Tensor], Tensor], optimizer: Any, peers: Peers, steps: range
) -> list[float]:
    norms = []
    for step in steps:
        model(rows_of(step)[4 * peers.number :][:4]).backward()
        optimizer.step()
        optimizer.zero_grad()
        norms.append(optimizer.last_norm)
    return norms


def beside_torchs(peers: Peers, overlap: bool) -> dict[str, Any]:
    """Learn in divided parameters, and with torch's optimizer in whole ones."""
    ours, theirs = divided(), OddModel()
    optimizer = OffloadedAdamW(ours.parameters(), 1e-2, max_norm=0.5, overlap=overlap, threads=1)
    norms = learn(ours, optimizer, peers, range(30))
    reference, wanted = torch.optim.AdamW(theirs.parameters(), 1e-2), []
    for step in range(30):
        theirs(rows_of(step)).backward()
        wanted.append(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5).item())
        reference.step()
        reference.zero_grad()
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    furthest = max((a.full_tensor() - b).abs().max().item() for a, b in pairs)
    held = sum(t.numel() for one in optimizer.state_dict()["state"].values() for t in one.values())
    return {"furthest": furthest, "norms": norms, "wanted": wanted, "held": held}


def resumed(peers: Peers, state: Any) -> bool:
    """Return whether a second optimizer goes on with the same bits."""
    model, again = divided(), divided()
    first, second = (
        OffloadedAdamW(m.parameters(), 1e-2, state=state, max_norm=0.5, threads=1)
        for m in (model, again)
    )
    learn(model, first, peers, range(10))
    second.load_state_dict(first.state_dict())
    for a, b in zip(again.parameters(), model.parameters(), strict=True):
        a.detach().to_local().copy_(b.detach().to_local())
    learn(model, first, peers, range(10, 20))
    learn(again, second, peers, range(10, 20))
    pairs = zip(again.parameters(), model.parameters(), strict=True)
    return all(torch.equal(a.to_local(), b.to_local()) for a, b in pairs)


def refused(peers: Peers) -> list[str]:
    """Return why parameters are refused that no process has, and experts that a process may not use."""
    mesh = init_device_mesh("cpu", (2,))
    partial = nn.Parameter(DTensor.from_local(torch.ones(4), mesh, [Partial()]))
    whole = divided()
    optimizer = OffloadedAdamW(whole.parameters(), overlap=False, max_norm=1.0)
    told = []
    try:
        OffloadedAdamW([partial])
    except UsageError as error:
        told.append(str(error))
    weight = next(iter(whole.parameters()))
    if peers.is_first:
        weight.grad = torch.ones_like(weight)
    else:
        weight.grad = DTensor.from_local(torch.ones(weight.shape), mesh, [Partial()])
    try:
        optimizer.step()
        told.append(f"{optimizer.n_skipped} step left out, with a norm of {optimizer.last_norm}")
    except UsageError as error:
        told.append(str(error))
    layer = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    experts = nn.Sequential(nn.ModuleList([layer]))
    loss = RowLoss(experts, Arith(torch.device("cpu"), torch.float32), pack=True, is_plain=False)
    try:
        shared_model(Learner(experts, torch.float32, False), loss, peers, FULL)
    except UsageError as error:
        told.append(str(error))
    return told


def main() -> None:
    with joined() as peers:
        torch.set_num_threads(1)

        def run(settings: TuneSettings, out: str, stop_after: int = 10**9) -> list[TuneEvent]:
            """Tune; the second process may be stopped, which both must notice."""
            seen: list[TuneEvent] = []
            steps = [0]

            def is_stopped() -> bool:
                steps[0] += 1
                return peers.number == 1 and steps[0] >= stop_after

            tune_model(settings, Path(out), seen.append, is_stopped=is_stopped, peers=peers)
            return seen

        told: dict[str, Any] = {"number": peers.number}
        for name, settings in {"full": FULL, "lora": LORA}.items():
            seen = run(settings, name)
            told[name] = len([one for one in seen if isinstance(one, StepLearned)])
            told[f"{name} stopped"] = 0
            with_chance = replace(settings, dropout=0.3)
            run(with_chance, f"{name}-whole")
            try:
                run(with_chance, f"{name}-parts", stop_after=2)
            except Stopped as stopped:
                told[f"{name} stopped"] = stopped.step
            run(with_chance, f"{name}-parts")
        run(replace(FULL, checkpointing=True, batch=2, accumulate=3), "less")  # layers part at once
        run(replace(FULL, state=StateFormat.EIGHT_BIT), "bytes")
        again = run(FULL, "full")
        told["again"] = [one.text for one in again if isinstance(one, Notice)]
        told["beside"] = [beside_torchs(peers, overlap) for overlap in (False, True)]
        told["resumed"] = {state: resumed(peers, state) for state in ("fp32", "bf16", "8bit")}
        told["refused"] = refused(peers)
        Path(f"told-{peers.number}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
