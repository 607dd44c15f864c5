"""Compares what `dure quantize` chooses with llama.cpp's mixtures of one size or speed, by KL divergence.

    python bench/quantize.py MODEL --imatrix M.gguf --data text.txt --judge other.txt
    python bench/quantize.py MODEL --imatrix M.gguf --data text.txt --judge other.txt --by speed --ranks 2

On `--data` dure learns what an error does; give another text with `--judge`, to judge all files on.
Every mixture is made with the same importance matrix; for the size or the measured speed of each file
dure then chooses itself. Speeds in the table are of both files in turns. With `--bits 2.7 3.3 4.5` dure's
choices at these sizes stand beside the best mixture that is at most as large.
A requantized model measures the method, not the model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MIXTURES = (
    *("Q2_K", "IQ3_XXS", "Q3_K_S", "IQ3_S", "Q3_K_M", "IQ4_XS", "Q4_0", "Q4_K_S", "Q4_K_M"),
    *("Q5_K_M", "Q6_K"),
)


def dure(*arguments: object) -> dict[str, Any]:
    """Run a command, and return what it prints as JSON."""
    command = [sys.executable, "-m", "dure.cli.main", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def quantized(options: argparse.Namespace, out: Path, *target: object) -> dict[str, Any]:
    """Write a file, and return what is told of it, with its size."""
    common = ("--imatrix", options.imatrix, "--data", options.data, "--time", options.time)
    ranks = ("--ranks", options.ranks) if options.ranks > 1 else ()
    facts = dure("quantize", options.model, *target, *common, *ranks, "--out", out, "--force")
    return {**facts, "file_bytes": out.stat().st_size}


def speeds(options: argparse.Namespace, paths: Sequence[Path]) -> list[float]:
    """Return the median speeds of files that run in turns."""
    found: list[list[float]] = [[] for _ in paths]
    for _ in range(options.rounds):
        for path, each in zip(paths, found, strict=True):
            facts = dure("bench", path, "--ranks", options.ranks, "-p", 16, "-n", 48, "--repeat", 3)
            each.append(facts["rows"][0]["generation"]["tokens_per_s"]["median"])
    return [statistics.median(each) for each in found]


def divergences(options: argparse.Namespace, paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return how far files are from the original on the text that none was chosen by."""
    found: Any = dure("eval", *paths, "--against", options.model, "--data", options.judge)
    return [one["divergence"] for one in found]


def compared(options: argparse.Namespace, name: str, directory: Path) -> dict[str, Any]:
    """Write a mixture and dure's own choice for it, and return both figures."""
    paths = (directory / "theirs.gguf", directory / "ours.gguf")
    theirs = quantized(options, paths[0], "--type", name)
    if options.by == "speed":
        wanted = ("--target-speed", f"{theirs['measured_tokens_per_s']:.2f}tok/s")
    else:
        wanted = ("--target-size", f"{theirs['file_bytes']}B")
    ours = quantized(options, paths[1], *wanted)
    found, judged = speeds(options, paths), divergences(options, paths)
    row: dict[str, Any] = {"mixture": name}
    for prefix, facts, speed, far in zip(("", "our_"), (theirs, ours), found, judged, strict=True):
        row |= {
            prefix + "bits_per_weight": facts["bits_per_weight"],
            prefix + "kl": far["mean"]["value"],
            prefix + "agreement": far["agreement"]["value"],
            prefix + "tokens_per_s": speed,
        }
    return row


def at_bits(
    options: argparse.Namespace, rows: Sequence[dict[str, Any]], directory: Path
) -> list[dict[str, Any]]:
    """Return rows of dure's choices at some sizes; tell the best mixture that is at most as large."""
    found = []
    for bits in options.bits:
        ours = quantized(options, directory / "ours.gguf", "--target-bpw", bits)
        (far,) = divergences(options, [directory / "ours.gguf"])
        kl, own_bits = far["mean"]["value"], ours["bits_per_weight"]
        found.append({"our_bits_per_weight": own_bits, "our_kl": kl})
        smaller = [row for row in rows if row["bits_per_weight"] <= bits * 1.005]
        best = min(smaller, key=lambda row: row["kl"], default=None)
        beside = "no mixture is so small"
        if best:
            beside = "{mixture}, {bits_per_weight:.3f} bits: KL {kl:.5f}".format(**best)
            beside += f", {kl / best['kl']:.2f} times"
        tell(f"at {bits} bits: ours, {own_bits:.3f} bits: KL {kl:.5f}; {beside}")
    return found


def tell(text: str) -> None:
    """Print a line for a person."""
    print(text, file=sys.stderr, flush=True)


def parsed() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--imatrix", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--judge", help="a text, to judge on (that of --data)")
    parser.add_argument("--time", default="20min")
    parser.add_argument("--mixtures", default=",".join(MIXTURES))
    parser.add_argument("--by", choices=("size", "speed"), default="size")
    parser.add_argument("--bits", nargs="*", type=float, default=[])
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--plot", type=Path, help="draw it: a path without suffix, for .svg and .png"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.judge = options.judge or options.data
    return options


def main() -> None:
    """Compare, and tell of it; print JSON and draw it if that is asked for."""
    options = parsed()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for name in options.mixtures.split(","):
            row = compared(options, name, Path(directory))
            rows.append(row)
            tell(
                "{mixture:8} {bits_per_weight:.3f} bits, {tokens_per_s:.1f} tok/s: KL {kl:.5f}; ours "
                "{our_bits_per_weight:.3f} bits, {our_tokens_per_s:.1f} tok/s: KL {our_kl:.5f}, "
                "{ratio:.2f} times; agreement {agreement:.3f} and {our_agreement:.3f}".format(
                    **row, ratio=row["our_kl"] / row["kl"] if row["kl"] else float("nan")
                )
            )
        more = at_bits(options, rows, Path(directory))
    if options.json:
        print(json.dumps([*rows, *more], indent=2))
    if options.plot:
        from plots import write_mixtures_plot  # needs matplotlib, which nothing else here does

        by_speed = options.by == "speed"
        axis, points = ("tokens_per_s", rows) if by_speed else ("bits_per_weight", [*rows, *more])
        write_mixtures_plot(points, axis, options.plot)


if __name__ == "__main__":
    main()
