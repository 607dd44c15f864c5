"""Measures one optimizer in a process of its own, for optimizer.py.

Takes NAME MILLIONS THREADS, and for a training step TOKENS MAX_NORM.
Writes the median seconds of some steps as JSON. Needs torch, and what the named one needs.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIDE = 2000  # of one weight matrix: 4 million parameters
WARM, STEPS = 3, 5
BYTES = {"dure-fp32": 28, "dure-bf16": 16, "dure-8bit": 12, "torch-fused": 28, "torch-loop": 28}
BYTES |= {"torch-fused-bf16": 14, "deepspeed": 28}


def measure(name: str, millions: int, threads: int) -> dict[str, float]:
    """Return the seconds of a step, of one with clipping, and the bytes a second of the first."""
    dtype = torch.bfloat16 if name.endswith(("bf16", "8bit")) else torch.float32
    parameters = [
        nn.Parameter(torch.randn(SIDE, SIDE).mul_(0.02).to(dtype))
        for _ in range(millions * 1_000_000 // SIDE**2)
    ]
    for parameter in parameters:
        parameter.grad = torch.randn(SIDE, SIDE).mul_(1e-3).to(dtype)
    step = stepper(name, parameters, threads, None)
    alone = median(step)
    most = 1e3  # clipping that finds nothing to clip, as in most steps; torch scales by one then
    if name.startswith("dure"):
        del step
        clipped = median(stepper(name, parameters, threads, most))
    else:
        clipped = median(lambda: (nn.utils.clip_grad_norm_(parameters, most), step()))
    moved = BYTES[name] * millions * 1e6
    return {"step": alone, "clipped": clipped, "bandwidth": moved / alone / 1e9}


def stepper(
    name: str, parameters: list[nn.Parameter], threads: int, max_norm: float | None
) -> Callable[[], Any]:
    """Return what makes a step of the named optimizer."""
    if name.startswith("dure"):
        from dure.tune.optimizer import OffloadedAdamW

        state: Any = name.removeprefix("dure-")
        return OffloadedAdamW(
            parameters, 1e-4, state=state, threads=threads, max_norm=max_norm, overlap=False
        ).step
    if name == "deepspeed":
        adam: Any = importlib.import_module("deepspeed.ops.adam")
        made: Callable[[], Any] = adam.DeepSpeedCPUAdam(parameters, lr=1e-4, adamw_mode=True).step
        return made
    if name == "torch-loop":
        return torch.optim.Adam(parameters, 1e-4, foreach=False, fused=False).step
    return torch.optim.AdamW(parameters, 1e-4, fused=True).step


def median(step: Callable[[], Any]) -> float:
    """Return the seconds of a step, after some to warm up."""
    for _ in range(WARM):
        step()
    seconds = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def triad(millions: int, threads: int) -> dict[str, float]:
    """Compile and run the triad of `a = b + s * c` over as many values."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "triad")
        source = str(Path(__file__).with_name("optimizer_triad.c"))
        words = ["cc", "-O3", "-march=native", "-pthread", "-o", program, source]
        subprocess.run(words, check=True)
        done = subprocess.run(
            [program, str(millions), str(threads)], check=True, capture_output=True, text=True
        )
    return {"bandwidth": float(done.stdout)}


class Layer(nn.Module):
    """One layer of a transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 [1, n_tokens, width]."""
        q, k, v = (
            part.unflatten(-1, (-1, 64)).transpose(1, 2)
            for part in self.qkv(self.before(x)).chunk(3, dim=-1)
        )
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        down: Tensor = self.down(nn.functional.silu(self.up(self.between(x))))
        return x + down


def train(name: str, threads: int, n_tokens: int, max_norm: float) -> dict[str, float]:
    """Return the seconds of a training step of 60M parameters: 16 layers, a head tied to the embedding."""
    from dure.tune.optimizer import OffloadedAdamW

    width, n_ids = 512, 18_000
    torch.manual_seed(0)
    embedding = nn.Embedding(n_ids, width)
    nn.init.normal_(embedding.weight, std=0.02)
    layers = nn.Sequential(*(Layer(width) for _ in range(16)))
    parameters = [*embedding.parameters(), *layers.parameters()]
    optimizer = OffloadedAdamW(
        parameters,
        1e-5,
        threads=threads,
        overlap=name != "after",
        release=name == "overlap-release",
        max_norm=max_norm or None,
    )
    ids = torch.randint(n_ids, (n_tokens + 1,))

    def step() -> None:
        logits = layers(embedding(ids[None, :-1]))[0] @ embedding.weight.t()
        loss = nn.functional.cross_entropy(logits, ids[1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return {"train": median(step)}


def main() -> None:
    """Measure what the command line names."""
    name, millions, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    if name == "triad":
        found = triad(millions, threads)
    elif name in ("overlap", "overlap-release", "after"):
        found = train(name, threads, int(sys.argv[4]), float(sys.argv[5]))
    else:
        found = measure(name, millions, threads)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
