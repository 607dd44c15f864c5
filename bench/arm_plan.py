"""What the planner predicts for Raspberry Pi 5s if kernels take the cycles that bench/arm.py predicts.

A weight is read as fast as memory gives it, or as fast as the cores compute with it, whichever is slower:

    memory   the most that any published speed on one Pi 5 has read: its memory gives at least that
    cores    4 at 2.4 GHz (data sheet), by the cycles that each weight takes (arm.py, llvm-mca)

All else is the catalogue's: the exchanges of a link, experts whose rows lie apart, and what every rank does
alike between products. Each is told with its basis. Nothing here was measured with dure on a Pi.

    python bench/arm.py --llama-cpp FOLDER --cores cortex-a76 --json > arm.json
    python bench/arm_plan.py arm.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure import BenchError, main
from msgspec.structs import replace

from dure.model.ggml import type_named
from dure.plan.demand import Demand, demand_of
from dure.plan.devices import Device, Processor
from dure.plan.figures import Basis, Figure
from dure.plan.machines import device_named, engine_named, link_named
from dure.plan.outline import outline_named, outlined_model
from dure.plan.performance import Prediction, TokenTime, predict
from dure.plan.published import demand_of_row, published_speeds

CORE, N_CORES, CLOCK_HZ = "cortex-a76", 4, 2.4e9
MONTH = "2026-12"
KERNELS = ("llama.cpp", "dure")
Cycles = Mapping[tuple[str, str], float]  # of a weight, by type and work


@dataclass(frozen=True, slots=True)
class Aim:
    """A setup and a model, what was published for it, and what dure is to reach."""

    device: str
    n_nodes: int
    model: str
    weights: str
    published: str
    target: float


AIMS = (
    Aim("pi5-8gb", 4, "qwen3:30b-a3b", "Q4_0", "13.04 and 15.14 (Distributed Llama)", 18),
    Aim("pi5-16gb", 1, "qwen3:30b-a3b", "2.7bpw", "8.03 (llama.cpp)", 10),
)


@dataclass(frozen=True, slots=True)
class Row:
    """What is predicted with one program's kernels. bounds: what limits reading, by type, in GB/s.

    left_ms: the most that all besides reading may take of a token at the target; less than 0: it is beyond
    what memory gives.
    """

    nodes: str
    model: str
    kernels: str
    generation: float
    low: float
    high: float
    prompt: float
    compute_ms: float
    sync_ms: float
    rest_ms: float
    bounds: dict[str, str]
    published: str
    target: float
    left_ms: float

    @property
    def met(self) -> bool:
        """Return whether the prediction reaches the target."""
        return self.generation >= self.target


def cycles_of(document: Any, kernels: str) -> Cycles:
    """Return the cycles that arm.py predicts. Raises BenchError if it did not write the document."""
    found: dict[tuple[str, str], float] = {}
    try:
        for one in document["comparisons"]:
            core, kind, work = one["quantity"].partition(",")[0].split()
            if core == CORE and one["unit"] == "cycles/weight":
                found[kind, work] = float(one["contenders"][kernels]["median"])
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError("that is not what `bench/arm.py --json` prints") from error
    if not found:
        raise BenchError(f"there is nothing of {CORE}: run bench/arm.py with --cores {CORE}")
    return found


def memory() -> Figure:
    """Return the least that a Pi 5's memory gives: the most that a published speed has read."""
    read = {
        row.id: demand_of_row(row).whole.read_bytes * row.generation_per_s
        for row in published_speeds()
        if row.device.startswith("pi5") and row.n_nodes == 1
    }
    best = max(read, key=lambda name: read[name])
    return Figure(read[best], Basis.PUBLISHED, f"{best}: what it reads each second", MONTH)


def board(device: Device, cycles: Cycles, demand: Demand, n_embd: int) -> Device:
    """Return a board whose weights are read and multiplied as fast as memory and cycles allow."""
    known, most = device.processor, memory()
    reads, prompts = dict[str, Figure](), dict[str, Figure]()
    per_s = N_CORES * CLOCK_HZ
    for (name, work), each in cycles.items():
        kind, source = type_named(name), "llvm-mca, Neoverse N1 (bench/arm.py)"
        if work == "prompt":
            prompts[name] = Figure(2 * per_s / each, Basis.ASSUMED, source, MONTH)
            continue
        computed = per_s / each * kind.type_size / kind.block_size
        by_cores = Figure(computed, Basis.ASSUMED, source, MONTH)
        reads[name] = min(most, by_cores, key=lambda one: one.value)
    return replace(device, processor=_with(known, most, reads, prompts, demand, n_embd))


def _with(
    known: Processor,
    most: Figure,
    reads: Mapping[str, Figure],
    prompts: Mapping[str, Figure],
    demand: Demand,
    n_embd: int,
) -> Processor:
    """Return a processor with these speeds; what ranks do alike takes as long as the catalogue has it."""
    alike = engine_named("dure").uncut
    part = 1 - 1 / demand.n_ranks
    layer_s = alike.value * 2 * n_embd * part / known.read.value
    return replace(
        known,
        read=most,
        reads=reads,
        prompts=prompts,
        layer_s=replace(alike, value=layer_s) if part else None,
    )


def rows(document: Any) -> Iterator[Row]:
    """Yield what is predicted for each aim with each program's kernels. Raises BenchError."""
    for aim in AIMS:
        outline = outline_named(aim.model)
        if outline is None:
            raise BenchError(f"the catalogue has no {aim.model}")
        model = outlined_model(aim.model, outline, aim.weights)
        known, n = device_named(aim.device), aim.n_nodes
        demand = demand_of(model, [1.0] * n, [known.processor.features] * n)
        for kernels in KERNELS:
            device = board(known, cycles_of(document, kernels), demand, demand.n_embd)
            found = predict(demand, [device] * n, link_named("1gbe"), engine_named("dure"))
            yield _row(aim, kernels, found, device, demand)


def _row(aim: Aim, kernels: str, found: Prediction, device: Device, demand: Demand) -> Row:
    time, processor = found.generation, device.processor
    types = {one.type for one in demand.ranks[0].products}
    bounds = {
        name: f"{processor.read_speed(name) / 1e9:.1f} "
        + ("by memory" if processor.read_speed(name) == processor.read.value else "by cores")
        for name in sorted(types)
    }
    span = found.generation_per_s
    return Row(
        f"{aim.n_nodes} x {device.title}", f"{aim.model} {aim.weights}", kernels,
        span.value, span.low, span.high, found.prompt_per_s.value,
        *_ms(time), bounds, aim.published, aim.target, 1e3 / aim.target - time.compute_s * 1e3,
    )  # fmt: skip


def _ms(time: TokenTime) -> tuple[float, float, float]:
    return time.compute_s * 1e3, time.sync_s * 1e3, time.rest_s * 1e3


def run() -> int:
    """Predict from a file of arm.py's; return 0 if dure's predictions reach the targets."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("cycles", type=Path, help="what `bench/arm.py --json` printed")
    options.add_argument("--json", action="store_true", help="print JSON instead of text")
    asked = options.parse_args()
    found = list(rows(json.loads(asked.cycles.read_text())))
    if asked.json:
        print(json.dumps([asdict(one) | {"met": one.met} for one in found], indent=2))
    else:
        most = memory()
        print(f"memory {most.value / 1e9:.2f} GB/s, {most.basis} ({most.source})")
        print("\n".join(map(_line, found)))
    return 0 if all(one.met for one in found if one.kernels == "dure") else 1


def _line(one: Row) -> str:
    bounds = ", ".join(f"{name} {text}" for name, text in one.bounds.items())
    return (
        f"{one.nodes}, {one.model}, {one.kernels}'s kernels: {one.generation:.1f} tokens/s "
        f"({one.low:.1f} to {one.high:.1f}), prompt {one.prompt:.0f}; published {one.published}, "
        f"target {one.target:g}: {'met' if one.met else 'MISSED'}\n"
        f"    reading {one.compute_ms:.1f} ms ({bounds} GB/s), sums {one.sync_ms:.1f} ms, "
        f"rest {one.rest_ms:.1f} ms; at the target {one.left_ms:.1f} ms are left for sums and rest"
    )


if __name__ == "__main__":
    main(run)
