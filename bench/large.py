"""A model that fills the machine: cut over two ranks and run; its memory is compared with the forecast.

The whole Qwen3-30B-A3B (48 layers, 128 experts, random weights in Q4_0: 17 GB), unless --shape names
another. Memory is compared: the peak of cutting, and each rank's peak with the forecast of `dure show`.
Needs memory for the model, and disk space for two of it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from contenders import installed_program, output
from measure import Comparison, Quantity, Spread, main, parser, positive, report
from shapes import add_model_options, gguf_file

CUT_BYTES = 600e6
CLOSE = 0.05


def run() -> int:
    """Cut, run, compare; return 0 if both stayed within their bounds."""
    options = parser(__doc__, rounds=1)
    add_model_options(options)
    options.set_defaults(shape="qwen3-30b-a3b")
    options.add_argument("--ranks", type=positive, default=2, help="default %(default)s")
    options.add_argument("-p", type=positive, default=128, help="prompt tokens (%(default)s)")
    options.add_argument("-n", type=positive, default=32, help="generated tokens (%(default)s)")
    arguments = options.parse_args()
    dure = installed_program("dure")
    model = gguf_file(arguments.shape, arguments.dir)
    shown = json.loads(output([dure, "show", str(model), "--json"]))
    said = shown["cuts"][arguments.ranks - 1]["memory_bytes"]
    context = min(4096, shown["shape"]["context_length"])
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        os.environ["DURE_CACHE"] = folder
        shards = Path(folder) / "shards"  # where dure looks for shards
        cut = _most_memory(
            [dure, "cut", str(model), "--ranks", str(arguments.ranks), "--out", str(shards)]
        )
        (found,) = json.loads(
            output([
                dure, "bench", str(model), "--ranks", str(arguments.ranks), "-t", "1",
                "--ctx", str(context), "-p", str(arguments.p), "-n", str(arguments.n),
                "--repeat", "1", "--json",
            ])
        )["rows"]  # fmt: skip
    comparisons = [_comparison("memory of the cut", "limit", cut, CUT_BYTES, above=1.0)]
    for rank, (peak, expected) in enumerate(zip(found["peak_memory_bytes"], said, strict=True)):
        name = f"peak of rank {rank}"
        comparisons += [
            _comparison(name, "said", peak, expected, above=1 + CLOSE),
            _comparison(f"{name}, at least", "said", peak, expected, below=1 - CLOSE),
        ]
    settings = {
        "model": model.name,
        "ranks": arguments.ranks,
        "prompt": f"{found['prompt']['tokens_per_s']['median']:.1f} tokens/s",
        "generation": f"{found['generation']['tokens_per_s']['median']:.1f} tokens/s",
    }
    return report("large", settings, comparisons, arguments.json)


def _comparison(
    label: str,
    other: str,
    measured: float,
    expected: float,
    *,
    above: float | None = None,
    below: float | None = None,
) -> Comparison:
    target, at_least = (below, True) if above is None else (above, False)
    spreads = {"dure": Spread.of([measured / 1e9]), other: Spread.of([expected / 1e9])}
    return Comparison(Quantity(label, label, "GB", target, at_least), spreads, measured / expected)


def _most_memory(argv: list[str]) -> float:
    """Return the peak memory of a program, in bytes."""
    code = (
        "import resource, subprocess, sys; "
        "status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode; "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(status)"
    )
    kibibytes = int(output([sys.executable, "-c", code, *argv]))
    return kibibytes * 1024.0


if __name__ == "__main__":
    main(run)
