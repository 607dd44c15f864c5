"""Fits the few figures of the planner's catalogue that published speeds decide, and shows the errors.

    python bench/plan_fit.py

Every third row is left out; measurements that were shared are shown, and fit nothing yet. Nothing is
written: what it prints goes into `src/dure/plan/catalogue/`.
One figure means one thing for all rows: a processor's speed in reading, an engine's way of working. None is
of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from dure.plan.devices import Device, EngineWays, NetworkLink
from dure.plan.figures import Figure
from dure.plan.machines import device_named, engine_named, link_named
from dure.plan.measurements import measurements
from dure.plan.published import PublishedSpeed, error, predicted, published_speeds

START = {
    "cortex-a72 read": 3.4e9, "cortex-a76 read": 9.9e9, "m4 read": 83e9, "c3d-30 read": 45e9,
    "low_bits": 0.93, "cortex-a76 tiled": 210e9, "cortex-a76 plain": 62e9,
    "dllama read_efficiency": 0.8, "dllama uncut": 1100.0, "star exchange_factor": 14.0,
    "dllama congestion": 4.3, "llama.cpp mixture_read": 0.87, "llama.cpp mixture_tiled": 0.46,
    "cloud exchange_s": 15e-6,
}  # fmt: skip
PROCESSORS = {"pi4": "cortex-a72", "mac": "m4", "c3d": "c3d-30"}  # by the first letters of a device
PULL = 0.05  # of each figure to its start, for those that no row decides
ROUNDS, STEP, MOST_STEP = 25, 1e-4, 0.3
Vector = NDArray[np.float64]


class Catalogue:
    """The catalogue with other figures in the places that are fitted."""

    def __init__(self, logarithms: Vector) -> None:
        self.figures = dict(zip(START, map(math.exp, logarithms), strict=True))

    def _given(self, old: Figure, name: str) -> Figure:
        return replace(old, value=self.figures[name])

    def device(self, name: str) -> Device:
        """Return a device."""
        device = device_named(name)
        kind = next((k for n, k in PROCESSORS.items() if name.startswith(n)), "cortex-a76")
        processor = replace(
            device.processor,
            read=self._given(device.processor.read, f"{kind} read"),
            low_bits=self.figures["low_bits"],
        )
        if kind == "cortex-a76":
            processor = replace(
                processor,
                tiled=self._given(processor.tiled, "cortex-a76 tiled"),
                plain=self._given(processor.plain, "cortex-a76 plain"),
            )
        return replace(device, processor=processor)

    def link(self, name: str) -> NetworkLink:
        """Return a link."""
        link = link_named(name)
        if name != "cloud":
            return link
        return replace(link, exchange_s=self._given(link.exchange_s, "cloud exchange_s"))

    def engine(self, name: str) -> EngineWays:
        """Return an engine."""
        engine = engine_named(name)
        if not name.startswith("distributed-llama"):
            return replace(
                engine,
                mixture_read=self._given(engine.mixture_read, "llama.cpp mixture_read"),
                mixture_tiled=self._given(engine.mixture_tiled, "llama.cpp mixture_tiled"),
            )
        if engine.is_star:
            factor = self._given(engine.exchange_factor, "star exchange_factor")
            engine = replace(engine, exchange_factor=factor)
        return replace(
            engine,
            read_efficiency=self._given(engine.read_efficiency, "dllama read_efficiency"),
            uncut=self._given(engine.uncut, "dllama uncut"),
            congestion=self._given(engine.congestion, "dllama congestion"),
        )

    def errors(self, row: PublishedSpeed) -> list[float]:
        """Return the errors of a row: of generation, and of a prompt if it was published."""
        found = predicted(
            row, self.device(row.device), self.link(row.link), self.engine(row.engine)
        )
        errors = [error(found.generation.per_s, row.generation_per_s)]
        if row.prompt_per_s:
            errors.append(error(found.prompt.per_s, row.prompt_per_s))
        return errors


def residuals(x: Vector, start: Vector) -> Vector:
    """Return the logarithms of prediction by published speed, of rows not left out, and the pull."""
    rows = [row for row in published_speeds() if not row.is_left_out]
    catalogue = Catalogue(x)
    errors = [math.log1p(one) for row in rows for one in catalogue.errors(row)]
    return np.array([*errors, *(PULL * (x - start))])


def fitted() -> Vector:
    """Return the logarithms of the figures with the least absolute errors, about."""
    x = start = np.log(list(START.values()))
    for _ in range(ROUNDS):
        r = residuals(x, start)
        slopes = np.array([(residuals(x + h, start) - r) / STEP for h in np.eye(len(x)) * STEP])
        weight = np.sqrt(1 / (1 + np.abs(r) / 0.1))  # a row far off pulls no more than others
        step = np.linalg.lstsq((slopes * weight).T, -r * weight, rcond=None)[0]
        x = x + np.clip(step, -MOST_STEP, MOST_STEP)
    return x


def main() -> None:
    """Fit, and print figures and errors."""
    catalogue = Catalogue(fitted())
    for name, value in catalogue.figures.items():
        print(f"{name:<26}{value:.4g}")
    for row in published_speeds():
        mark = "left out" if row.is_left_out else ""
        print(f"{row.id} {mark:<9}{_percents(catalogue.errors(row))}")
    print_measured()


def print_measured() -> None:
    """Print the errors on measurements that were shared, which are of dure and in no fit yet."""
    for name, one in measurements().items():
        for run in one.runs:
            found = one.predicted(run)
            if found is None:
                print(f"{name}: the catalogue lacks {one.title}")
                continue
            pairs = ((found.generation, run.generation), (found.prompt, run.prompt))
            print(f"{name}: {_percents(error(a.value, b.per_s) for a, b in pairs)}")


def _percents(errors: Iterable[float]) -> str:
    return ", ".join(f"{100 * one:+.1f} %" for one in errors)


if __name__ == "__main__":
    main()
