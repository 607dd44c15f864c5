"""What the planner predicts for Raspberry Pi 5s if kernels take the cycles that bench/arm.py predicts.

A matrix takes the time in which memory gives it, and the part of the cores' time that memory does not hide:

    bytes / memory + exposed * weights * cycles / (4 cores * 2.4 GHz, its data sheet)

`memory` and `exposed` are fitted to published speeds of llama.cpp on one Pi 5, with the cycles that arm.py
predicts for llama.cpp's kernels; rows that the planner leaves out of its fits are left out here too, and
their errors are told. dure's kernels take their own cycles then. All else is the catalogue's, with its
basis: the exchanges of a link, and what every rank does alike between products.
Nothing here was measured with dure on a Pi.

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

import numpy as np
from measure import BenchError, main
from msgspec.structs import replace

from dure.model.ggml import type_named
from dure.plan.demand import Demand, RankDemand, demand_of
from dure.plan.devices import Device, EngineWays
from dure.plan.figures import Basis, Figure
from dure.plan.machines import device_named, engine_named, link_named
from dure.plan.outline import outline_named, outlined_model
from dure.plan.performance import Prediction, predict
from dure.plan.published import demand_of_row, error, published_speeds

CORE, CORES_PER_S = "cortex-a76", 4 * 2.4e9  # cycles of a Pi 5, each second
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is predicted with one program's kernels: tokens a second, and the parts of a token's time.

    low, high: what generation lies between in four of five cases.
    """

    nodes: str
    model: str
    kernels: str
    generation: float
    low: float
    high: float
    prompt: float
    memory_ms: float
    cores_ms: float
    sync_ms: float
    rest_ms: float
    published: str
    target: float

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


def cores_s(demand: RankDemand, cycles: Cycles) -> float:
    """Return the seconds that the cores take for a token's products, if memory kept up.

    Types that arm.py does not know are read and no more, as float32.
    """
    known = (cycles.get((one.type, "generation"), 0.0) * one.n_weights for one in demand.products)
    return sum(known) / CORES_PER_S


@dataclass(frozen=True, slots=True)
class Reading:
    """How a Pi 5 reads. exposed: the part of the cores' time that is not hidden behind memory's.

    errors: of published speeds, by their ids: those that were left out of the fit.
    """

    memory_bytes_per_s: float
    exposed: float
    errors: dict[str, float]

    def seconds(self, n_bytes: float, computing_s: float) -> float:
        """Return the seconds of reading and computing."""
        return n_bytes / self.memory_bytes_per_s + self.exposed * computing_s


def fitted(cycles: Cycles) -> Reading:
    """Fit how a Pi 5 reads to published speeds of llama.cpp, whose kernels take these cycles."""
    every = [
        (row, whole.read_bytes, cores_s(whole, cycles))
        for row in published_speeds()
        if row.device.startswith("pi5") and row.n_nodes == 1 and row.engine.startswith("llama")
        for whole in [demand_of_row(row).whole]
    ]
    taken = [(row.generation_per_s, b, s) for row, b, s in every if not row.is_left_out]
    shares = np.array([[b * rate, s * rate] for rate, b, s in taken])  # of each token's time
    (per_byte, exposed), *_ = np.linalg.lstsq(shares, np.ones(len(shares)), rcond=None)
    reading = Reading(1 / float(per_byte), max(0.0, float(exposed)), {})
    for row, n_bytes, computing_s in every:
        if row.is_left_out:
            value = 1 / reading.seconds(n_bytes, computing_s)
            reading.errors[row.id] = error(value, row.generation_per_s)
    return reading


def board(device: Device, cycles: Cycles, reading: Reading, demand: Demand) -> Device:
    """Return a board that reads so, with kernels that take these cycles.

    What ranks do alike between products takes as long as the catalogue has it.
    """
    source = "bench/arm.py and published speeds"
    reads, prompts = dict[str, Figure](), dict[str, Figure]()
    for (name, work), each in cycles.items():
        kind = type_named(name)
        if work == "prompt":
            prompts[name] = Figure(2 * CORES_PER_S / each, Basis.ASSUMED, source, MONTH)
            continue
        block_s = reading.seconds(kind.type_size, kind.block_size * each / CORES_PER_S)
        reads[name] = Figure(kind.type_size / block_s, Basis.FITTED, source, MONTH)
    alike, part = engine_named("dure").uncut, 1 - 1 / demand.n_ranks
    layer_s = alike.value * 2 * demand.n_embd * part / device.processor.read.value
    processor = replace(
        device.processor,
        read=Figure(reading.memory_bytes_per_s, Basis.FITTED, source, MONTH),
        reads=reads,
        prompts=prompts,
        layer_s=replace(alike, value=layer_s) if part else None,
    )
    return replace(device, processor=processor)


def dure_ways() -> EngineWays:
    """Return how dure works; that experts are read slower is in the fit, whose rows have experts."""
    ways = engine_named("dure")
    return replace(ways, mixture_read=replace(ways.mixture_read, value=1.0))


def rows(document: Any) -> Iterator[Row]:
    """Yield what is predicted for each aim with each program's kernels. Raises BenchError."""
    reading = fitted(cycles_of(document, "llama.cpp"))
    for aim in AIMS:
        outline = outline_named(aim.model)
        if outline is None:
            raise BenchError(f"the catalogue has no {aim.model}")
        model = outlined_model(aim.model, outline, aim.weights)
        known, n = device_named(aim.device), aim.n_nodes
        demand = demand_of(model, [1.0] * n, [known.processor.features] * n)
        for kernels in KERNELS:
            device = board(known, cycles_of(document, kernels), reading, demand)
            found = predict(demand, [device] * n, link_named("1gbe"), dure_ways())
            memory_ms = 1e3 * demand.ranks[0].read_bytes / reading.memory_bytes_per_s
            yield _row(aim, kernels, device.title, found, memory_ms)


def _row(aim: Aim, kernels: str, title: str, found: Prediction, memory_ms: float) -> Row:
    time, span = found.generation, found.generation_per_s
    return Row(
        nodes=f"{aim.n_nodes} x {title}",
        model=f"{aim.model} {aim.weights}",
        kernels=kernels,
        generation=span.value,
        low=span.low,
        high=span.high,
        prompt=found.prompt_per_s.value,
        memory_ms=memory_ms,
        cores_ms=1e3 * time.compute_s - memory_ms,
        sync_ms=1e3 * time.sync_s,
        rest_ms=1e3 * time.rest_s,
        published=aim.published,
        target=aim.target,
    )


def run() -> int:
    """Predict from a file of arm.py's; return 0 if dure's predictions reach the targets."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("cycles", type=Path, help="what `bench/arm.py --json` printed")
    options.add_argument("--json", action="store_true", help="print JSON instead of text")
    asked = options.parse_args()
    document = json.loads(asked.cycles.read_text())
    reading, found = fitted(cycles_of(document, "llama.cpp")), list(rows(document))
    if asked.json:
        predicted = [asdict(one) | {"met": one.met} for one in found]
        print(json.dumps({"reading": asdict(reading), "predictions": predicted}, indent=2))
    else:
        print("\n".join([_first_line(reading), *map(_line, found)]))
    return 0 if all(one.met for one in found if one.kernels == "dure") else 1


def _first_line(reading: Reading) -> str:
    errors = ", ".join(f"{name} {each:+.1%}" for name, each in reading.errors.items())
    return (
        f"memory {reading.memory_bytes_per_s / 1e9:.2f} GB/s and {reading.exposed:.2f} of the cores' time, "
        f"fitted to published speeds; errors of those left out: {errors}"
    )


def _line(one: Row) -> str:
    return (
        f"{one.nodes}, {one.model}, {one.kernels}'s kernels: {one.generation:.1f} tokens/s "
        f"({one.low:.1f} to {one.high:.1f}), prompt {one.prompt:.0f}; published {one.published}, "
        f"target {one.target:g}: {'met' if one.met else 'MISSED'}\n"
        f"    of {1e3 / one.generation:.1f} ms: memory {one.memory_ms:.1f}, cores {one.cores_ms:.1f}, "
        f"sums {one.sync_ms:.1f}, rest {one.rest_ms:.1f}; the target is {1e3 / one.target:.1f}"
    )


if __name__ == "__main__":
    main(run)
