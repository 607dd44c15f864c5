"""Importance matrices beside llama-imatrix's: the same sums, and how long both take.

    DURE_LLAMA_IMATRIX=…/llama-imatrix python bench/importance.py MODEL TEXT [--chunks 8] [--ranks 3]

Build it from the source package of llama-cpp-python, without AMX:
`cmake -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_FLAGS=-U__AMX_INT8__ -DCMAKE_CXX_FLAGS=-U__AMX_INT8__`, target
`llama-imatrix`. Both read the same chunks of the text, with the same number of threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dure.convert.importance import Importance, read_importance

MOST_APART = 1e-3  # of a tensor's norm


def main() -> None:
    """Run both, compare, and fail if they differ."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = Path(folder) / "theirs.gguf", Path(folder) / "ours.gguf"
        their_s = _timed(_llama(options, theirs))
        our_s = _timed(_dure(options, ours))
        worst, name = _worst(read_importance(ours), read_importance(theirs))
    n_tokens = options.chunks * options.ctx
    print(f"llama-imatrix  {n_tokens / their_s:8.1f} tokens/s, with its start")
    print(f"dure imatrix   {n_tokens / our_s:8.1f} tokens/s, with its start")
    print(f"largest difference: {worst:.1e} of the norm, in {name}")
    if worst > MOST_APART:
        sys.exit(f"more than {MOST_APART:g}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _llama(options: argparse.Namespace, out: Path) -> list[str]:
    program = os.environ.get("DURE_LLAMA_IMATRIX")
    if not program:
        sys.exit("set DURE_LLAMA_IMATRIX to the path of llama-imatrix")
    size = str(options.ctx)
    return [
        *(program, "-m", str(options.model), "-f", str(options.text), "-o", str(out), "--no-ppl"),
        *("--chunks", str(options.chunks), "-c", size, "-b", size, "-ub", size),
        *("-t", str(options.threads), "-ngl", "0"),
    ]


def _dure(options: argparse.Namespace, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "dure.cli.main", "imatrix", str(options.model), "--data"),
        *(str(options.text), "--out", str(out), "--chunks", str(options.chunks)),
        *("--ctx", str(options.ctx), "--ranks", str(options.ranks), "--sync", "f32"),
        *("--threads", str(options.threads)),
    ]


def _timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def _worst(ours: Importance, theirs: Importance) -> tuple[float, str]:
    """Return the largest difference of a tensor's mean squares, of their norm. Counts must be the same."""
    if ours.squares.keys() != theirs.squares.keys():
        sys.exit(f"other tensors: {sorted(ours.squares.keys() ^ theirs.squares.keys())}")
    found = []
    for name, squares in theirs.squares.items():
        mine = ours.squares[name]
        if not np.array_equal(mine.counts, squares.counts):
            apart = np.abs(mine.counts - squares.counts).sum() / squares.counts.sum()
            print(f"{name}: {apart:.1e} of the tokens came to other experts")
        off = np.linalg.norm(mine.sums - squares.sums) / np.linalg.norm(squares.sums)
        found.append((float(off), name))
    return max(found)


if __name__ == "__main__":
    main()
