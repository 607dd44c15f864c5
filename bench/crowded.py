"""Beside a busy program: the threads that dure chooses, beside the best number of them.

One program, or as many as --busy says, keeps a processor busy all the time. `dure bench` runs with the
threads that it takes by itself, and with some numbers of threads; the table compares the first with the
best of the others.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from contenders import Load, dure, installed_program
from measure import (
    BenchError,
    Contender,
    Quantity,
    against_the_better,
    alternate,
    compared,
    main,
    parser,
    positive,
    report,
)
from shapes import add_model_options, gguf_file

from dure.hardware import probe

LEAST = 0.8  # of the best


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=5)
    add_model_options(options)
    options.add_argument("--busy", type=positive, default=1, help="busy programs (%(default)s)")
    options.add_argument("-p", type=positive, default=128, help="tokens of a prompt (%(default)s)")
    options.add_argument("-n", type=positive, default=128, help="generated tokens (%(default)s)")
    arguments = options.parse_args()
    installed_program("dure")
    model = gguf_file(arguments.shape, arguments.dir)
    most = probe.probe().cores
    if most < 2:
        raise BenchError("there is no choice on one core: use a machine with two or more")
    load = Load(arguments.p, arguments.n, repeats=3)
    fixed = [
        Contender(f"-t {n}", partial(dure, model, 1, n, load))
        for n in sorted({1, most // 2, most - 1, most})
    ]
    quantities = [Quantity(part, part, "tokens/s", LEAST) for part in ("prompt", "generation")]
    with _busy(arguments.busy):
        samples = alternate(
            [Contender("dure", partial(dure, model, 1, None, load)), *fixed], arguments.rounds
        )
    comparisons = against_the_better(
        [one for other in fixed for one in compared(samples, "dure", other.name, quantities)]
    )
    settings = {"model": model.name, "busy programs": arguments.busy, "rounds": arguments.rounds}
    return report("crowded", settings, comparisons, arguments.json)


@contextlib.contextmanager
def _busy(n: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(n):
            program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(program.wait)
            stack.callback(program.kill)
        yield


if __name__ == "__main__":
    main(run)
