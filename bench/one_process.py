"""One process: dure compared with llama.cpp's llama-bench, same model, same threads.

On one machine, dure must be as fast as llama.cpp, whose kernels it runs. Both evaluate a prompt of random
tokens and generate tokens one by one, each from an empty cache and after a warm-up.
llama-bench runs without and with flash attention; the table has the better of both, by name.
Needs llama-bench (DURE_LLAMA_BENCH); see bench/README.md.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from contenders import FLASH, PARTS, Load, dure, installed_program, llama_bench, llama_bench_program
from measure import (
    Comparison,
    Contender,
    Quantity,
    against_the_better,
    compare_with_each,
    main,
    parser,
    positive,
    report,
)
from shapes import MIXES, add_model_options, gguf_file

TARGET = 1.0


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=5)
    add_model_options(options)
    options.add_argument("--mix", choices=MIXES, default="q4_0", help="its types (%(default)s)")
    options.add_argument("--model", type=Path, help="a GGUF file, instead of --shape")
    options.add_argument(
        "--threads", type=positive, nargs="+", default=[1, 2], metavar="T", help="default 1 2"
    )
    options.add_argument("-p", type=positive, default=512, help="prompt tokens (%(default)s)")
    options.add_argument("-n", type=positive, default=128, help="generated tokens (%(default)s)")
    options.add_argument("-r", type=positive, default=5, help="runs in a round (%(default)s)")
    options.add_argument("--cpus", metavar="LIST", help="pin both to these CPUs, as for taskset")
    arguments = options.parse_args()
    llama_bench_program()
    installed_program("dure")
    model = arguments.model or gguf_file(arguments.shape, arguments.dir, arguments.mix)
    load = Load(arguments.p, arguments.n, repeats=arguments.r)
    prefix = ["taskset", "-c", arguments.cpus] if arguments.cpus else []
    comparisons: list[Comparison] = []
    for threads in arguments.threads:
        contenders = [
            Contender("dure", partial(dure, model, 1, threads, load, prefix=prefix)),
            *(
                Contender(
                    name, partial(llama_bench, model, threads, load, prefix=prefix, more=more)
                )
                for name, more in FLASH.items()
            ),
        ]
        goals = dict.fromkeys(FLASH, _quantities(threads))
        comparisons += against_the_better(compare_with_each(goals, contenders, arguments.rounds))
    settings = {"model": model.name, "-p": arguments.p, "-n": arguments.n,
                "rounds": arguments.rounds, "cpus": arguments.cpus or "all"}  # fmt: skip
    return report("one_process", settings, comparisons, arguments.json)


def _quantities(threads: int) -> list[Quantity]:
    return [Quantity(part, f"{part}, -t {threads}", "tokens/s", TARGET) for part in PARTS]


if __name__ == "__main__":
    main(run)
