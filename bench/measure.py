"""Compares measurements: alternating rounds, medians, ratios, one report.

Knows how to repeat named measurements in turn and how to compare two of them.
Refuses to know what is measured: programs, models and networks are the callers'.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from dure.hardware import probe

Sample = Mapping[str, float]
"""One measurement: the key of a quantity to its value, in the quantity's unit."""

BUSY_PERCENT = 10.0  # of all cores together, before anything of ours runs


class BenchError(Exception):
    """A benchmark cannot run; the message names the reason and the cure."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A program to measure.

    `measure` runs it once and returns one value for every quantity. It raises BenchError if
    the program cannot be run or its output is unexpected.
    once: measure it in the first round only, as a slow program without a target.
    """

    name: str
    measure: Callable[[], Sample]
    once: bool = False


@dataclass(frozen=True, slots=True)
class Quantity:
    """What is compared, and the target of the ratio (first contender / second).

    `key` is its name in a Sample, `label` what is printed. `at_least` is true if more is
    better (tokens/s), false if less is (seconds). Without a target it is only shown.
    """

    key: str
    label: str
    unit: str
    target: float | None
    at_least: bool = True

    def met(self, ratio: float) -> bool:
        """Return whether `ratio` reaches the target."""
        if self.target is None:
            return True
        return ratio >= self.target if self.at_least else ratio <= self.target

    @property
    def goal(self) -> str:
        """Return the target as printed, such as `>= 0.98`."""
        if self.target is None:
            return "none"
        return f"{'>=' if self.at_least else '<='} {self.target:g}"


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of one quantity over all rounds, in the quantity's unit."""

    median: float
    min: float
    max: float
    runs: list[float]

    @classmethod
    def of(cls, runs: Sequence[float]) -> Spread:
        """Return the spread of one or more values."""
        return cls(statistics.median(runs), min(runs), max(runs), list(runs))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity of two contenders; `ratio` is of the medians, first over second."""

    quantity: Quantity
    spreads: dict[str, Spread]
    ratio: float

    @property
    def met(self) -> bool:
        """Return whether the ratio reaches the quantity's target."""
        return self.quantity.met(self.ratio)

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as plain values for `json.dumps`."""
        spreads = {name: asdict(spread) for name, spread in self.spreads.items()}
        return {
            "quantity": self.quantity.label,
            "unit": self.quantity.unit,
            "contenders": spreads,
            "ratio": self.ratio,
            "target": self.quantity.goal,
            "met": self.met,
        }


def alternate(contenders: Sequence[Contender], rounds: int) -> dict[str, list[Sample]]:
    """Measure every contender once per round, or once in all; return the samples by contender.

    Every second round runs in the opposite order (A B, B A, A B, ...), so that a machine
    whose speed drifts (heat, neighbours) does not favour the first.
    Progress goes to stderr. Raises BenchError as the contenders do.
    """
    warn_if_busy()
    samples: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        order = contenders if number % 2 == 0 else list(reversed(contenders))
        for contender in (c for c in order if number == 0 or not c.once):
            sample = contender.measure()
            samples[contender.name].append(sample)
            values = ", ".join(f"{name} {value:.4g}" for name, value in sample.items())
            progress(f"round {number + 1}/{rounds}  {contender.name}: {values}")
    return samples


def compare(
    quantities: Sequence[Quantity], contenders: Sequence[Contender], rounds: int
) -> list[Comparison]:
    """Alternate two contenders for `rounds` rounds and compare each quantity's medians."""
    return compare_with_each({contenders[1].name: quantities}, contenders, rounds)


def compare_with_each(
    goals: Mapping[str, Sequence[Quantity]], contenders: Sequence[Contender], rounds: int
) -> list[Comparison]:
    """Alternate all contenders, and compare the first with each of the others.

    goals: the quantities to compare with each, by its name.
    """
    samples = alternate(contenders, rounds)
    first = contenders[0].name
    return [
        comparison
        for other, quantities in goals.items()
        for comparison in compared(samples, first, other, quantities)
    ]


def compared(
    samples: Mapping[str, Sequence[Sample]], first: str, other: str, quantities: Sequence[Quantity]
) -> list[Comparison]:
    """Compare the medians of two contenders' samples."""
    comparisons = []
    for quantity in quantities:
        spreads = {
            name: Spread.of([sample[quantity.key] for sample in samples[name]])
            for name in (first, other)
        }
        own, others = spreads[first].median, spreads[other].median
        ratio = own / others if others else math.inf  # one rank does not wait
        comparisons.append(Comparison(quantity, spreads, ratio))
    return comparisons


def against_the_better(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return, of each quantity, the comparison with the strongest of several contenders."""
    hardest: dict[str, Comparison] = {}
    for comparison in comparisons:
        known = hardest.get(comparison.quantity.label)
        at_least = comparison.quantity.at_least
        if known is None or (comparison.ratio < known.ratio) is at_least:
            hardest[comparison.quantity.label] = comparison
    return list(hardest.values())


def table(comparisons: Sequence[Comparison]) -> str:
    """Return the comparisons as text, grouped by contenders."""
    groups: dict[tuple[str, ...], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault(tuple(comparison.spreads), []).append(comparison)
    return "\n\n".join(_table(names, group) for names, group in groups.items())


def _table(names: Sequence[str], comparisons: Sequence[Comparison]) -> str:
    """Return a row per comparison, with `median (min-max)` of each contender."""
    rows = [["quantity", *names, "ratio", "target", ""]]
    for comparison in comparisons:
        cells = [_cell(comparison.spreads[name]) for name in names]
        label = f"{comparison.quantity.label} [{comparison.quantity.unit}]"
        verdict = _verdict(comparison)
        rows.append([label, *cells, f"{comparison.ratio:.3f}", comparison.quantity.goal, verdict])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _verdict(comparison: Comparison) -> str:
    if comparison.quantity.target is None:
        return ""
    return "met" if comparison.met else "MISSED"


def _cell(spread: Spread) -> str:
    return f"{spread.median:.4g} ({spread.min:.4g}-{spread.max:.4g})"


def warn_if_busy() -> None:
    """Warn if other programs run: they slow the contenders, and not by the same factor."""
    busy = psutil.cpu_percent(interval=1)
    if busy > BUSY_PERCENT:
        progress(f"warning: the machine is busy ({busy:.0f} %): the ratios mean little")


_VECTORS = {
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2",
    "asimddp": "NEON with dot products",
    "asimd": "NEON",
}
"""What kernels are written for, by the feature that tells of it: the best first."""


def machine() -> dict[str, Any]:
    """Return a description of the machine: processor, vector units, cores, system, one-minute load."""
    features = probe.platform({}, lambda _: "").features
    return {
        "load": os.getloadavg()[0],
        "processor": _processor(Path("/proc/cpuinfo")),
        "vectors": next(
            (name for feature, name in _VECTORS.items() if feature in features), "none"
        ),
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }


def _processor(cpuinfo: Path) -> str:
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model"):
                return value.strip()
    return platform.machine()


def report(
    bench: str, settings: Mapping[str, Any], comparisons: Sequence[Comparison], as_json: bool
) -> int:
    """Print the result to stdout; return the exit status: 0 if all targets are met, else 1."""
    if as_json:
        document = {
            "bench": bench,
            "settings": dict(settings),
            "machine": machine(),
            "comparisons": [comparison.as_json() for comparison in comparisons],
        }
        print(json.dumps(document, indent=2))
    else:
        print("  ".join(f"{name} {value}" for name, value in settings.items()))
        print(table(comparisons))
    return 0 if all(comparison.met for comparison in comparisons) else 1


def progress(message: str) -> None:
    """Print progress to stderr."""
    print(message, file=sys.stderr, flush=True)


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a command line with the options of every benchmark: `--rounds` and `--json`."""
    result = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 all targets met, 1 a target missed, 2 the benchmark cannot run.",
    )
    result.add_argument(
        "--rounds",
        type=positive,
        default=rounds,
        metavar="N",
        help="alternating rounds; medians are over these (default %(default)s)",
    )
    result.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return result


def positive(text: str) -> int:
    """Parse an argument that must be a whole number above zero. Raises ValueError."""
    value = int(text)
    if value < 1:
        raise ValueError(f"{value} is not above zero")
    return value


def main(run: Callable[[], int]) -> None:
    """Run a benchmark's body and exit with its status; a BenchError is one line and status 2."""
    try:
        status = run()
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
