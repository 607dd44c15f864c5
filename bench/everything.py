"""Runs all benchmarks, one after the other, and writes the page that shows them: docs/benchmarks.md.

Each result is saved as JSON, so that an interrupted run resumes; give --again to measure again. Peers take
part if their environment variables are set (see bench/README.md); network namespaces need root. Nothing
else may run meanwhile. The page's tables and plots are written from the saved results; tables without a
result stay as they are. --pages only does that. Plots need matplotlib.

    sudo -E "$(command -v python)" bench/everything.py --list
    sudo -E "$(command -v python)" bench/everything.py
    python bench/everything.py --pages
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from measure import BenchError, main, progress
from shapes import COMMON_MIXES, CURE, MIXES, default_directory

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
SHAPES = {
    "qwen3-0.6b": "Qwen3-0.6B",
    "llama-3.2-1b": "Llama-3.2-1B",
    "qwen3-30b-a3b-12-layers": "Qwen3-30B-A3B, 12 of its 48 layers",
}
SMALL = "qwen3-0.6b"
"""The one that is measured in all mixes of types."""
LLAMA, RPC, DLLAMA = "DURE_LLAMA_BENCH", "DURE_RPC_SERVER", "DURE_DLLAMA"
SERVER = ("DURE_LLAMA_SERVER", "DURE_VOCABULARY")


@dataclass(frozen=True)
class Bench:
    """A script with its arguments. name: of its result and of its part of the page."""

    name: str
    title: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()  # environment variables
    as_root: bool = False
    minutes: int = 5  # estimate, to show whoever waits
    room: str = ""  # memory and disk that it takes

    @property
    def why_not(self) -> str:
        """Return what is missing on this machine, or ""."""
        if find_spec("gguf") is None:
            return CURE
        missing = [name for name in self.needs if not os.environ.get(name)]
        if missing:
            return f"set {' and '.join(missing)}"
        return "needs root" if self.as_root and os.geteuid() != 0 else ""


def benches() -> list[Bench]:
    """Return all benchmarks, in the order of the page."""
    one_process = [
        Bench(
            f"one-process-{shape}-{mix}",
            f"{title}, {mix.upper()}",
            ("one_process.py", "--shape", shape, "--mix", mix, "--rounds", "3",
             "-p", "256", "-n", "32", "-r", "2"),
            (LLAMA,), minutes=6,
        )
        for shape, title in SHAPES.items()
        for mix in (MIXES if shape == SMALL else COMMON_MIXES)
    ]  # fmt: skip
    two_nodes = [
        Bench(
            f"two-nodes-{shape}", SHAPES[shape],
            ("two_nodes.py", "--shape", shape, "--rounds", "3", "-n", "48", "-r", "3"),
            (LLAMA, RPC, DLLAMA), as_root=True, minutes=10,
        )
        for shape in ("qwen3-0.6b", "qwen3-30b-a3b-12-layers")
    ]  # fmt: skip
    exchanges = [
        Bench(
            f"exchange-{n_bytes}", f"{n_bytes:,} bytes",
            ("exchange.py", "--bytes", str(n_bytes), "--repeats", str(repeats)),
            as_root=True, minutes=2,
        )
        for n_bytes, repeats in ((2176, 5000), (1_048_560, 100))
    ]  # fmt: skip
    depths = [
        Bench(
            f"depth-{depth}", f"{depth:,} tokens",
            ("depth.py", "--depths", str(depth), "--rounds", str(rounds)), (LLAMA,), True, minutes,
        )
        for depth, rounds, minutes in ((4096, 2, 10), (16384, 1, 30))
    ]  # fmt: skip
    return [
        *one_process,
        *two_nodes,
        Bench("scaling", "1 to 4 ranks", ("scaling.py", "-r", "2"), (DLLAMA,), True, 8),
        *exchanges,
        *depths,
        Bench(
            "speculation", "Speculative decoding", ("speculation.py", "--rounds", "5"), minutes=6
        ),
        Bench(
            "large",
            "A model that fills the machine",
            ("large.py",),
            minutes=10,
            room="takes 20 GB of memory and 36 GB of disk",
        ),
        Bench("serve", "Serving", ("serve.py", "--rounds", "3"), SERVER, minutes=18),
    ]


def run() -> int:
    """Measure what has no result yet and write the page; return 0 if every target is met."""
    arguments = _arguments()
    chosen = [b for b in benches() if b.name.startswith(tuple(arguments.only or [""]))]
    if not chosen:
        raise BenchError(f"no benchmark is called {' or '.join(arguments.only)}: see --list")
    if arguments.list:
        width = max(len(bench.name) for bench in chosen)
        for bench in chosen:
            print(
                f"{bench.name:<{width}}{bench.minutes:>4} min  {bench.why_not or bench.room}".rstrip()
            )
        return 0
    arguments.results.mkdir(parents=True, exist_ok=True)
    if not arguments.pages:
        for bench in chosen:
            _measure(bench, arguments.results, again=arguments.again)
    results = _read(arguments.results)
    _write_page(results)
    missed = [
        f"{name}: {c['quantity']}, {' to '.join(c['contenders'])} {c['ratio']:.3f} {c['target']}"
        for name, result in results.items()
        for c in result["comparisons"]
        if not c["met"]
    ]
    for line in missed:
        progress(f"missed  {line}")
    return 1 if missed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="those that begin with a name")
    parser.add_argument("--again", action="store_true", help="measure also what is kept")
    parser.add_argument("--pages", action="store_true", help="measure nothing, write the page")
    parser.add_argument("--list", action="store_true", help="say what there is and what it needs")
    parser.add_argument(
        "--results", type=Path, default=default_directory() / "results", metavar="DIR",
        help="where results are kept (default %(default)s)",
    )  # fmt: skip
    return parser.parse_args()


def _measure(bench: Bench, directory: Path, *, again: bool) -> None:
    kept = directory / f"{bench.name}.json"
    if bench.why_not:
        progress(f"{bench.name}: left out, {bench.why_not}")
        return
    if kept.exists() and not again:
        progress(f"{bench.name}: measured before")
        return
    progress(f"{bench.name}: about {bench.minutes} minutes")
    begun = time.monotonic()
    argv = [sys.executable, str(HERE / bench.words[0]), *bench.words[1:], "--json"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        progress(f"{bench.name}: failed, and left out")
        return
    took = time.monotonic() - begun
    progress(f"{bench.name}: {took / 60:.1f} minutes, {_verdict(done.returncode)}")
    unfinished = kept.with_suffix(".part")
    unfinished.write_text(done.stdout)
    unfinished.replace(kept)


def _verdict(status: int) -> str:
    return "a target missed" if status else "all targets met"


def _read(directory: Path) -> dict[str, Any]:
    """Return the saved results by name, in the order of the page."""
    paths = {bench.name: directory / f"{bench.name}.json" for bench in benches()}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


# ---------------------------------------------------------------- the page


def _write_page(results: Mapping[str, Any]) -> None:
    """Rewrite every part of the page between `<!-- figures: NAME -->` and `<!-- end -->`."""
    page = _PART.sub(lambda part: _renewed(part, results), PAGE.read_text())
    PAGE.write_text(page)
    if "scaling" in results:
        from plots import write_plots

        write_plots(results, PAGE.parent / "images")


_PART = re.compile(
    r"(?P<begin><!-- figures: (?P<name>\S+) -->\n)(?P<body>.*?)(?=<!-- end -->)", re.DOTALL
)
_TITLED = re.compile(r"\*\*(?P<title>[^*]+)\*\* .*?(?=\n\n\*\*|\Z)", re.DOTALL)


def _renewed(part: re.Match[str], results: Mapping[str, Any]) -> str:
    """Return one part of the page: tables of the saved results, and the old tables of the others."""
    name, body = part["name"], part["body"].rstrip("\n")
    before = {table["title"]: table[0] for table in _TITLED.finditer(body)}
    tables = [
        _table(bench.title, results[bench.name]) if bench.name in results else before[bench.title]
        for bench in benches()
        if bench.name.startswith(name) and (bench.name in results or bench.title in before)
    ]
    return part["begin"] + ("\n\n".join(tables) or "Not measured yet.") + "\n"


def _table(title: str, result: Mapping[str, Any]) -> str:
    """Return a result as a table: a row per comparison, with the rounds' minimum and maximum."""
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    machine = result["machine"]
    settings += f"; {machine['processor']}, {machine['cores']} cores, {machine['vectors']}"
    first = next(iter(result["comparisons"][0]["contenders"]))
    rows = [
        f"**{title}** ({settings})", "",
        f"| quantity | {first} | beside | | ratio | target |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for comparison in result["comparisons"]:
        (_, own), (other, theirs) = comparison["contenders"].items()
        rows.append(
            f"| {comparison['quantity']}, {comparison['unit']} | {_cell(own)} | {other} | "
            f"{_cell(theirs)} | {_ratio(comparison)} | {_goal(comparison)} |"
        )
    return "\n".join(rows)


def _ratio(comparison: Mapping[str, Any]) -> str:
    ratio = float(comparison["ratio"])
    return f"{ratio:.2f}" if math.isfinite(ratio) else ""


def _cell(spread: Mapping[str, Any]) -> str:
    if spread["min"] == spread["max"]:
        return f"{spread['median']:.4g}"
    return f"{spread['median']:.4g} ({spread['min']:.4g} to {spread['max']:.4g})"


def _goal(comparison: Mapping[str, Any]) -> str:
    if comparison["target"] == "none":
        return ""
    sign = comparison["target"].replace(">=", "≥").replace("<=", "≤")
    return sign if comparison["met"] else f"{sign}, missed"


if __name__ == "__main__":
    main(run)
