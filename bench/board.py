"""A board tells the truth in one command: dure's kernels and whole models beside llama.cpp's.

For an owner of a board. Kernels: products of a matrix with one vector (generation) and with many (prompts),
on one core and on all, in nanoseconds for each weight and vector; in cycles too if the clock is known, as
bench/arm.py predicts them. Whole models: `dure bench` beside llama.cpp's own library, on all cores. Both
take turns. While it measures, the board's clock, temperature and throttling are watched.

It writes two files, with nothing personal in them: a record of the model's speeds that the planner's
catalogue can have (CONTRIBUTING.md, "Share a measurement"), and all figures as JSON. It should take less
than ten minutes on a Raspberry Pi 4 (not tried on one), and half of that on a 5; leave the board alone
meanwhile, with its fan on.

    python bench/board.py --out my-board
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.support

from contenders import PARTS, installed_program, output
from measure import (
    BenchError,
    Comparison,
    Contender,
    Quantity,
    Sample,
    alternate,
    compared,
    machine,
    main,
    parser,
    positive,
    progress,
    table,
    warn_if_busy,
)
from shapes import MIXES, add_model_options, gguf_file

from dure.hardware import probe
from dure.hardware.health import Platform
from dure.model.llama_log import silence_llama
from dure.plan.kernels import is_repacked
from tests.support.ggml_graphs import Graph, new_graph, taking
from tests.support.products import KINDS, numbers

ROWS, WIDTH, MANY = 2048, 4096, 64
VECTORS = {"generation": 1, "prompt": MANY}
TARGETS = {"generation": (0.9, 0.7), "prompt": (0.75, 0.7)}
"""Of ARM's kernels: with dot products, and without."""
REPEATED_S = 0.15  # for which a product is repeated in each round, unless one takes longer
CUSTOM = "CUSTOM"  # what ggml calls a node that a kernel of ours computes
LLAMA = Path(__file__).with_name("board_llama.py")


# ---------------------------------------------------------------- the board


@dataclass
class Watched:
    """What the board's sensors said while it was measured. None: it has none."""

    hottest_c: float | None = None
    slowest_mhz: float | None = None
    throttled: set[str] = field(default_factory=set)

    def look(self) -> None:
        """Look once more."""
        now = probe.health(Path())
        self.throttled |= set(now.throttled)
        if now.temperature_c is not None:
            self.hottest_c = max(now.temperature_c, self.hottest_c or 0.0)
        if now.clock_mhz:
            self.slowest_mhz = min(now.clock_mhz, self.slowest_mhz or now.clock_mhz)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "throttled": sorted(self.throttled)}


@contextmanager
def watching() -> Iterator[Watched]:
    """Look at the sensors each second until the block ends."""
    watched, ended = Watched(), threading.Event()

    def look() -> None:
        while not ended.wait(1):
            watched.look()

    watched.look()
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        ended.set()
        thread.join()


def board(here: Platform) -> dict[str, Any]:
    """Return what the board is: its name, cores and features, and how its clock is governed."""
    return {
        **machine(),
        "board": here.processor,
        "architecture": here.architecture,
        "core": _core(Path("/proc/cpuinfo").read_text()),
        "features": list(here.features),
        "memory_bytes": here.memory_bytes,
        "governor": _text("scaling_governor"),
        "highest_mhz": _mhz(_text("cpuinfo_max_freq")),
        "limits": list(here.limits),
    }


_PARTS = {"0xd03": "Cortex-A53", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72",
          "0xd0b": "Cortex-A76", "0xd0c": "Neoverse N1", "0xd40": "Neoverse V1", "0xd41": "Cortex-A78",
          "0xd49": "Neoverse N2"}  # fmt: skip


def _core(cpuinfo: str) -> str:
    """Return the kinds of core that Linux reports; "" where it reports none, as on x86."""
    found = dict.fromkeys(re.findall(r"^CPU part\s*: (\w+)$", cpuinfo, re.MULTILINE))
    return ", ".join(_PARTS.get(part, part) for part in found)


def _text(name: str) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu0/cpufreq/{name}").read_text().strip()
    except OSError:
        return ""


def _mhz(khz: str) -> float | None:
    return int(khz) / 1000 if khz else None


# ---------------------------------------------------------------- kernels


@dataclass(frozen=True)
class Products:
    """One product twice: as dure computes it, and as llama.cpp does. is_ours: whether these differ."""

    ours: Graph
    llama: Graph
    is_ours: bool

    def ns(self, graph: Graph, n: int, threads: int) -> Sample:
        """Return the least nanoseconds for each weight and vector, of a few repetitions."""
        times: list[float] = []
        begun = time.perf_counter()
        while len(times) < 2 or (time.perf_counter() - begun < REPEATED_S and len(times) < 20):
            start = time.perf_counter()
            graph.compute(threads)
            times.append(time.perf_counter() - start)
        return {"ns": min(times) * 1e9 / (ROWS * WIDTH * n)}


@contextmanager
def products(kind: str, n: int, features: Sequence[str]) -> Iterator[Products]:
    """Make a product of a type with n vectors, in the layout that llama.cpp gives the type here."""
    matrix, x = numbers(ROWS, WIDTH), numbers(n, WIDTH, seed=1)
    repacked = is_repacked(kind, ROWS, features)
    with taking() as take, new_graph() as ours, new_graph() as llama:
        for graph in (ours, llama):
            graph.product(matrix, kind, x, repacked=repacked)
        take(ours)
        yield Products(ours, llama, ours.operation == CUSTOM)


def kernels(
    kinds: Sequence[str], threads: Sequence[int], rounds: int, here: Platform
) -> Iterator[Comparison]:
    """Yield both kernels of each type, one vector and many, on each number of threads."""
    jobs = [(kind, name) for kind in kinds for name in VECTORS]
    for i, (kind, name) in enumerate(jobs):
        n, found = VECTORS[name], list[Comparison]()
        with products(kind, n, here.features) as both:
            own = "" if both.is_ours else ", llama.cpp's own"
            for t in threads:
                samples = _in_turns(both, n, t, rounds)
                label = f"{kind} {name}, -t {t}{own}"
                quantity = Quantity("ns", label, "ns/weight", _target(name, here), at_least=False)
                found += compared(samples, "dure", "llama.cpp", [quantity])
        progress(f"{i + 1}/{len(jobs)} {_brief(found)}")
        yield from found


def _in_turns(both: Products, n: int, threads: int, rounds: int) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {"dure": [], "llama.cpp": []}
    graphs = {"dure": both.ours, "llama.cpp": both.llama}
    for i in range(rounds):
        for name in list(graphs)[:: 1 if i % 2 else -1]:
            samples[name].append(both.ns(graphs[name], n, threads))
    return samples


def _target(name: str, here: Platform) -> float | None:
    if here.architecture != "aarch64":
        return None
    return TARGETS[name]["asimddp" not in here.features]


def _brief(found: Sequence[Comparison]) -> str:
    return "; ".join(f"{one.quantity.label}: ratio {one.ratio:.2f}" for one in found)


# ---------------------------------------------------------------- whole models


def whole_model(
    model: Path, threads: int, rounds: int, load: tuple[int, int], record: Path
) -> list[Comparison]:
    """Compare a model's speeds; write the record of dure's that can be shared."""
    tokens = ["-p", str(load[0]), "-n", str(load[1]), "--repeat", "2"]
    shared = ["--share", str(record), "--yes", "--force"]
    argv = [installed_program("dure"), "bench", str(model), "-t", str(threads), *tokens, "--json"]
    other = [sys.executable, str(LLAMA), str(model), "--threads", str(threads), *tokens]
    output([*argv, *shared])  # by itself: it measures the machine too
    contenders = [
        Contender("dure", partial(_dure, argv)),
        Contender("llama.cpp", lambda: json.loads(output(other))),
    ]
    samples = alternate(contenders, rounds)
    goals = [Quantity(part, f"{model.stem} {part}", "tokens/s", 1.0) for part in PARTS]
    return compared(samples, "dure", "llama.cpp", goals)


def _dure(argv: Sequence[str]) -> Sample:
    answer = json.loads(output(argv))
    try:
        (row,) = answer["rows"]
        return {part: float(row[part]["tokens_per_s"]["median"]) for part in PARTS}
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"`dure bench --json` printed something else: {answer}") from error


# ---------------------------------------------------------------- the command


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=2)
    add_model_options(options)
    add = options.add_argument
    add("--out", type=Path, default=Path("board"), metavar="FOLDER", help="default %(default)s")
    add("--kinds", nargs="*", choices=KINDS, default=KINDS, help="types of weights (all)")
    add("--mixes", nargs="*", choices=MIXES, default=["q4_0"], help="of the model (%(default)s)")
    add("--model", type=Path, help="a GGUF file, instead of --shape")
    add("--threads", type=positive, help="default: all cores")
    add("-p", type=positive, default=64, help="prompt tokens (%(default)s)")
    add("-n", type=positive, default=32, help="generated tokens (%(default)s)")
    asked = options.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    silence_llama()
    here = probe.platform({}, lambda _: "")
    most = asked.threads or here.cores
    warn_if_busy()
    with watching() as watched:
        found = list(kernels(asked.kinds, sorted({1, most}), asked.rounds, here))
        found += _models(asked, most)
    document = {
        "bench": "board",
        "machine": board(here),
        "watched": watched.as_json(),
        "comparisons": [one.as_json() | _in_cycles(one, watched) for one in found],
    }
    file = asked.out / "board.json"
    file.write_text(json.dumps(document, indent=2) + "\n")
    _report(document, found, asked)
    return 0 if all(one.met for one in found) else 1


def _models(asked: argparse.Namespace, threads: int) -> Iterator[Comparison]:
    given = [asked.model] if asked.model else []
    for mix in asked.mixes if not given else []:
        given.append(gguf_file(asked.shape, asked.dir, mix))
    for model in given:
        record = asked.out / f"{model.stem}.toml"
        yield from whole_model(model, threads, asked.rounds, (asked.p, asked.n), record)


def _in_cycles(one: Comparison, watched: Watched) -> dict[str, dict[str, float]]:
    """Return the cycles for each weight, of one core; nothing of others, or if the clock is not known."""
    if watched.slowest_mhz is None or ", -t 1" not in one.quantity.label:
        return {}
    ghz = watched.slowest_mhz / 1000
    return {"cycles_per_weight": {name: s.median * ghz for name, s in one.spreads.items()}}


def _report(document: dict[str, Any], found: Sequence[Comparison], asked: Any) -> None:
    if asked.json:
        print(json.dumps(document, indent=2))
        return
    facts = document["machine"]
    shown = ("board", "core", "cores", "vectors", "governor", "highest_mhz", "system")
    print("  ".join(f"{name} {facts[name]}" for name in shown if facts[name]))
    print("  ".join(f"{name} {value}" for name, value in document["watched"].items() if value))
    print(table(found))
    written = ", ".join(sorted(map(str, asked.out.iterdir())))
    print(f"\nWritten: {written}. CONTRIBUTING.md says how to share them.")


if __name__ == "__main__":
    main(run)
