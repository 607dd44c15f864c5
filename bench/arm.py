"""Kernels for ARM without a board: dure's beside llama.cpp's, by what they execute and a model of a core.

Both are built by one cross compiler for one core. For each type of weights two figures are told, of a
weight that is multiplied with a vector: the instructions that are executed, counted by QEMU, and the cycles
that llvm-mca's model of the core takes for just these instructions. They are predictions: data always lie
in the first cache, and no branch is mistaken, so they say nothing of memory.

Generation is one vector. A prompt has 512: what is done once for all vectors is told apart from what each
of them takes by two smaller numbers. What is done once for all rows (activations in 8 bits) is left out.
What no kernel of dure takes is computed by llama.cpp's, and the ratio is 1.

    python bench/arm.py --llama-cpp llama_cpp_python-0.3.36/vendor/llama.cpp
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from pathlib import Path

from arm_programs import Sources, build_llama, build_ours
from arm_sequence import CORES, Core, cycles, disassembly, executed, llvm_mca, program, version
from measure import Comparison, Quantity, Spread, main, progress, report
from shapes import default_directory

from dure.model.ggml import GgmlType, type_named
from dure.plan.kernels import is_repacked

TYPES = (
    "Q4_0", "Q4_K", "Q6_K", "Q8_0", "Q2_K", "Q3_K", "Q5_K", "Q5_0", "IQ4_NL", "IQ4_XS", "MXFP4",
    "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS",
)  # fmt: skip
FEW_ROWS, MANY_ROWS = 16, 32


@dataclass(frozen=True, slots=True)
class Work:
    """How many vectors are multiplied, and the numbers of them from which that follows.

    width: of the matrix, no larger than it must be: each instruction is simulated.
    """

    name: str
    width: int
    vectors: int
    counted: tuple[int, ...]
    target: float  # of cycles, with dot products
    plain_target: float  # without


WORKS = {
    work.name: work
    for work in (
        Work("generation", 2048, 1, (1,), 0.9, 0.7),
        Work("prompt", 1024, 512, (16, 32), 0.75, 0.7),
    )
}


@dataclass(frozen=True, slots=True)
class Counts:
    """What a weight takes, multiplied with one vector of some."""

    instructions: float
    cycles: float


class Kernels:
    """A program for a core, which multiplies matrices.

    arguments: of a type, rows, width, vectors and a layout.
    """

    def __init__(
        self,
        binary: Path,
        core: Core,
        arguments: Callable[[GgmlType, int, int, int, str], list[str]],
    ) -> None:
        self._binary, self._core, self._arguments = binary, core, arguments

    @cached_property
    def _instructions(self) -> dict[str, str]:
        return disassembly(self._binary)

    def counts(self, kind: GgmlType, work: Work, layout: str) -> Counts | None:
        """Return what a weight takes, or None if no kernel takes the product. Raises BenchError.

        What was counted of this program is kept beside it.
        """
        kept = self._binary.with_name(f"{kind.name}-{work.name}-{self._core.model}-{llvm()}.json")
        if kept.exists():
            known = json.loads(kept.read_text())
            return Counts(**known) if known else None
        found = self._counted(kind, work, layout)
        kept.write_text(json.dumps(asdict(found) if found else None))
        return found

    def _counted(self, kind: GgmlType, work: Work, layout: str) -> Counts | None:
        each = [self._of_rows(kind, work.width, n, layout) for n in work.counted]
        known = [one for one in each if one is not None]
        if len(known) < len(each):
            return None
        return Counts(
            of_vectors(work, [one.instructions for one in known]),
            of_vectors(work, [one.cycles for one in known]),
        )

    def _of_rows(self, kind: GgmlType, width: int, n: int, layout: str) -> Counts | None:
        """Return what the rows beyond FEW_ROWS take, for each weight, with all of n vectors."""
        of_rows = partial(self._once, kind, width, n, layout)
        few, many = of_rows(FEW_ROWS), of_rows(MANY_ROWS)
        if few is None or many is None:
            return None
        weights = (MANY_ROWS - FEW_ROWS) * width
        return Counts(
            (many.instructions - few.instructions) / weights, (many.cycles - few.cycles) / weights
        )

    def _once(self, kind: GgmlType, width: int, n: int, layout: str, rows: int) -> Counts | None:
        arguments = self._arguments(kind, rows, width, n, layout)
        found = executed(self._binary, arguments, self._core)
        if found is None:
            return None
        return Counts(len(found), cycles([self._instructions[at] for at in found], self._core))


def of_vectors(work: Work, values: Sequence[float]) -> float:
    """Return what a vector takes if there are as many as the work has: on a line through the values."""
    if len(values) == 1:
        return values[0] / work.vectors
    (low, high), (first, last) = work.counted, values
    slope = (last - first) / (high - low)
    return (last + slope * (work.vectors - high)) / work.vectors


@cache
def llvm() -> str:
    """Return the version of llvm-mca. Raises BenchError."""
    return version(llvm_mca())


# ---------------------------------------------------------------- the two


def _ours_arguments(kind: GgmlType, rows: int, width: int, n: int, layout: str) -> list[str]:
    return [*map(str, (kind.id, rows, width, n, kind.row_bytes(width))), layout]


def _llama_arguments(kind: GgmlType, rows: int, width: int, n: int, _layout: str) -> list[str]:
    return [kind.name, *map(str, (rows, width, n, kind.row_bytes(width)))]


@dataclass(frozen=True, slots=True)
class Both:
    """The kernels of both, for a core."""

    core: Core
    ours: Kernels
    llama: Kernels

    def compared(self, kind: GgmlType, work: Work) -> Iterator[Comparison]:
        """Yield what a weight takes of both, first in cycles. Raises BenchError."""
        layout = "repacked" if is_repacked(kind.name, MANY_ROWS, self.core.features) else "rows"
        theirs = self.llama.counts(kind, work, layout)
        if theirs is None:
            return
        ours = self.ours.counts(kind, work, layout)
        what = f"{self.core.name} {kind.name} {work.name}" + ("" if ours else ", llama.cpp's own")
        target = work.target if self.core.has_dot_product else work.plain_target
        for unit, goal in (("cycles", target), ("instructions", None)):
            a, b = (float(getattr(one, unit)) for one in (ours or theirs, theirs))
            spreads = {"dure": Spread.of([a]), "llama.cpp": Spread.of([b])}
            quantity = Quantity(unit, what, f"{unit}/weight", goal, at_least=False)
            yield Comparison(quantity, spreads, a / b)


def built(sources: Sources, core: Core, folder: Path) -> Both:
    """Build both for a core. Raises BenchError."""
    ours, llama = build_ours(sources, core, folder), build_llama(sources, core, folder)
    return Both(core, Kernels(ours, core, _ours_arguments), Kernels(llama, core, _llama_arguments))


def comparisons(both: Both, types: Sequence[str], works: Sequence[str]) -> Iterator[Comparison]:
    """Yield what is compared on a core, and tell the progress."""
    jobs = [(type_named(name), WORKS[work]) for name in types for work in works]
    with ThreadPoolExecutor(2) as threads:
        for found in threads.map(lambda job: list(both.compared(*job)), jobs):
            for one in found[:1]:
                own, other = (spread.median for spread in one.spreads.values())
                progress(f"{one.quantity.label}: {own:.4f} / {other:.4f} = {one.ratio:.3f} cycles")
            yield from found


def run() -> int:
    """Compare what the command line asks for; return the exit status."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("--llama-cpp", type=Path, required=True, metavar="FOLDER", help="llama.cpp's sources")
    here = Path(__file__).parents[1]
    add("--dure", type=Path, default=here, metavar="FOLDER", help="dure's sources (these)")
    add("--cores", nargs="+", choices=CORES, default=list(CORES), help="default: all")
    add("--types", nargs="+", choices=TYPES, default=list(TYPES), help="default: all")
    add("--works", nargs="+", choices=WORKS, default=list(WORKS), help="default: both")
    add("--dir", type=Path, default=default_directory(), help="of what is compiled (%(default)s)")
    add("--json", action="store_true", help="print JSON instead of a table")
    arguments = options.parse_args()
    sources = Sources(arguments.dure.resolve(), arguments.llama_cpp.resolve())
    found: list[Comparison] = []
    for name in arguments.cores:
        both = built(sources, CORES[name], arguments.dir / "arm")
        found += comparisons(both, arguments.types, arguments.works)
    return report("arm", _settings(arguments.cores), found, arguments.json)


def _settings(cores: Sequence[str]) -> dict[str, str]:
    versions = {
        "gcc": version(program("aarch64-linux-gnu-gcc")),
        "QEMU": version(program("qemu-aarch64-static")),
        "llvm-mca": llvm(),
    }
    return versions | {f"{name} as": CORES[name].model_title for name in cores}


if __name__ == "__main__":
    main(run)
