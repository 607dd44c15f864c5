"""AdamW on the processor: dure's offloaded one against torch's, DeepSpeed's, and the memory's bandwidth.

Every contender is a process of its own (optimizer_step.py), started anew in each round: some steps, of
which the median counts. `step` is the step alone; `clipped` is what a training step needs: the norm of all
gradients, and gradients scaled by it. Weights and gradients are float32, but for those of dure-bf16,
dure-8bit and torch-fused-bf16, which are bfloat16; dure keeps 8 further bits of each weight.

torchao's CPUOffloadOptimizer asks for a GPU; its step is torch.optim.AdamW(fused=True) on each parameter.

--overlap compares instead a training step of a language model with 60M parameters on two threads, with the
update during the backward pass and after it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from measure import (
    BenchError,
    Contender,
    Quantity,
    compare_with_each,
    main,
    parser,
    positive,
    report,
)

HERE = Path(__file__).resolve().parent
BYTES = {
    "dure-fp32": 28,
    "dure-bf16": 16,
    "dure-8bit": 12,
}  # a parameter; bf16 weights for the lower two
FACTORS = {"dure-fp32": 1.15, "dure-bf16": 1.6, "dure-8bit": 2.2}
SLOWEST = "torch-loop"
OVERLAP = 0.9
OF_TRIAD = 0.9


@dataclass(frozen=True)
class Peer:
    """Another optimizer: how optimizer_step.py names it, the interpreter that has it, how often it runs."""

    name: str
    python: str = sys.executable
    once: bool = False
    environment: dict[str, str] = field(default_factory=dict)


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--millions", type=positive, default=100, help="of parameters")
    options.add_argument("--threads", type=positive, default=2)
    options.add_argument(
        "--state", choices=list(BYTES), default="dure-fp32", help="whose rows the table has"
    )
    options.add_argument("--peers", metavar="PYTHON", help="an interpreter that has DeepSpeed")
    options.add_argument("--native", metavar="NAME", help="as DURE_NATIVE, of an unpacked wheel")
    options.add_argument("--wheel", metavar="FOLDER", help="the unpacked wheel, for --native")
    options.add_argument(
        "--overlap", action="store_true", help="a training step, not the step alone"
    )
    options.add_argument("--tokens", type=positive, default=64, help="of a step of --overlap")
    options.add_argument("--max-norm", type=float, help="clip in --overlap")
    arguments = options.parse_args()
    environment = {"DURE_NATIVE": arguments.native} if arguments.native else {}
    if arguments.wheel:
        environment["PYTHONPATH"] = arguments.wheel
    own = Peer(arguments.state, environment=environment)
    settings = {key: value for key, value in vars(arguments).items() if key != "json"}
    if arguments.overlap:
        extra = [str(arguments.tokens), str(arguments.max_norm or 0)]
        pair = [Peer("overlap", environment=environment), Peer("after", environment=environment)]
        contenders = [_contender(peer, 60, arguments.threads, extra) for peer in pair]
        goals = {"after": [Quantity("train", "training step", "s", OVERLAP, at_least=False)]}
    else:
        peers = [Peer("torch-fused"), Peer(SLOWEST, once=True), Peer("triad")]
        peers += [Peer("torch-fused-bf16")] if arguments.state != "dure-fp32" else []
        peers += [Peer("deepspeed", arguments.peers)] if arguments.peers else []
        contenders = [
            _contender(peer, arguments.millions, arguments.threads, []) for peer in (own, *peers)
        ]
        goals = {peer.name: _goals(arguments.state, peer.name) for peer in peers}
    comparisons = compare_with_each(goals, contenders, arguments.rounds)
    return report("optimizer", settings, comparisons, arguments.json)


def _goals(state: str, peer: str) -> list[Quantity]:
    """Return what is compared with a peer: times, or for the triad bytes a second."""
    if peer == "triad":
        return [Quantity("bandwidth", f"{BYTES[state]} bytes a parameter", "GB/s", OF_TRIAD)]
    factor = 5.0 if peer == SLOWEST else FACTORS[state] if peer != "torch-fused-bf16" else None
    most = None if factor is None else 1 / factor
    return [
        Quantity("step", "step", "s", most, at_least=False),
        Quantity("clipped", "step with clipping", "s", most, at_least=False),
    ]


def _contender(peer: Peer, millions: int, threads: int, extra: Sequence[str]) -> Contender:
    return Contender(peer.name, partial(_measure, peer, millions, threads, extra), once=peer.once)


def _measure(peer: Peer, millions: int, threads: int, extra: Sequence[str]) -> dict[str, float]:
    program = [peer.python, str(HERE / "optimizer_step.py"), peer.name, str(millions), str(threads)]
    path = (
        f"{Path(peer.python).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # DeepSpeed's ninja
    )
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": str(threads), **peer.environment}
    done = subprocess.run(
        [*program, *extra], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"{peer.name} failed: {done.stderr[-600:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main(run)
