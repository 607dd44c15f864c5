"""Memory: what one process takes at its peak beside weights and KV cache, and where it goes.

`dure bench` says the peak. A second process does the same in stages, and its resident memory is noted
after each: what a stage adds, less what it adds of weights and KV cache. The peak of loading is noted too.
Both are of one thread and random weights, so without a vocabulary.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from contenders import installed_program, output
from measure import Comparison, Quantity, Spread, main, parser, positive, progress, report
from shapes import COMMON_MIXES, MIXES, add_model_options, gguf_file

MOST_MB = 120
STAGES = Path(__file__).with_name("memory_stages.py")


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=1)
    add_model_options(options)
    options.add_argument(
        "--mixes", nargs="+", choices=MIXES, default=list(COMMON_MIXES), help="types of weights"
    )
    options.add_argument("-p", type=positive, default=128, help="prompt tokens (%(default)s)")
    options.add_argument("-n", type=positive, default=8, help="generated tokens (%(default)s)")
    arguments = options.parse_args()
    comparisons = []
    for mix in arguments.mixes:
        model = gguf_file(arguments.shape, arguments.dir, mix)
        beside = [_beside(model, arguments.p, arguments.n) / 1e6 for _ in range(arguments.rounds)]
        comparisons.append(_comparison(f"{mix.upper()}: peak beside weights and KV cache", beside))
        for stage, megabytes in _stages(model, arguments.p, arguments.n).items():
            progress(f"{mix.upper()}  {stage}: {megabytes:.1f} MB")
            comparisons.append(_comparison(f"{mix.upper()}: {stage}", [megabytes], limited=False))
    settings = {"shape": arguments.shape, "-p": arguments.p, "-n": arguments.n,
                "rounds": arguments.rounds}  # fmt: skip
    return report("memory", settings, comparisons, arguments.json)


def _beside(model: Path, n_prompt: int, n_generated: int) -> float:
    argv = [
        installed_program("dure"), "bench", str(model), "-t", "1", "-p", str(n_prompt),
        "-n", str(n_generated), "--repeat", "1", "--json",
    ]  # fmt: skip
    (row,) = json.loads(output(argv))["rows"]
    (peak,), (weights,), (kv,) = row["peak_memory_bytes"], row["weights_bytes"], row["kv_bytes"]
    return float(peak - weights - kv)


def _stages(model: Path, n_prompt: int, n_generated: int) -> dict[str, float]:
    """Return what each stage adds, in MB."""
    argv = [sys.executable, str(STAGES), str(model), str(n_prompt), str(n_generated)]
    found: dict[str, float] = json.loads(output(argv))
    return found


def _comparison(label: str, megabytes: list[float], *, limited: bool = True) -> Comparison:
    target = 1.0 if limited else None
    own = Spread.of(megabytes)
    spreads = {"dure": own, "limit": Spread.of([MOST_MB])}
    return Comparison(
        Quantity(label, label, "MB", target, at_least=False), spreads, own.median / MOST_MB
    )


if __name__ == "__main__":
    main(run)
