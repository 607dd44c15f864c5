"""One process: dure compared with llama.cpp's llama-bench and ik_llama.cpp's, same model, same threads.

On one machine, dure must be as fast as llama.cpp, some of whose kernels it runs, and faster than
ik_llama.cpp, the fastest that there is for processors. All evaluate a prompt of random tokens and generate
tokens one by one, each from an empty cache and after a warm-up.
llama-bench runs without and with flash attention; the table has the better of both, by name.
ik_llama.cpp also runs with weights repacked at loading and as they are: the best of four.
Needs llama-bench (DURE_LLAMA_BENCH), and takes ik_llama.cpp's if it is given (DURE_IK_BENCH); see
bench/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from contenders import (
    IK,
    LLAMA,
    PARTS,
    Load,
    dure,
    installed_program,
    llama_bench_program,
    peers_in_one_process,
)
from measure import (
    Comparison,
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
from shapes import MIXES, add_model_options, gguf_file

TARGETS = dict.fromkeys(PARTS, 1.0)
"""Of the ratio with llama.cpp, and with ik_llama.cpp where there is no other."""
_USUAL = {"prompt": 1.15, "generation": 1.3}
_FEW_BITS = {"prompt": 1.1, "generation": 1.15}
IK_TARGETS = {
    "q4_0": _USUAL, "q4_k_m": _USUAL, "q8_0": _USUAL,
    "q2_k": _FEW_BITS, "q3_k_s": _FEW_BITS, "iq4_xs": _FEW_BITS, "mxfp4": _FEW_BITS,
}  # fmt: skip


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
    peers = peers_in_one_process(model, prefix)
    targets = {
        LLAMA: TARGETS,
        IK: TARGETS if arguments.model else IK_TARGETS.get(arguments.mix, TARGETS),
    }
    comparisons: list[Comparison] = []
    for threads in arguments.threads:
        contenders = [
            Contender("dure", partial(dure, model, 1, threads, load, prefix=prefix)),
            *(
                Contender(name, partial(program, threads, load))
                for name, program in peers.programs().items()
            ),
        ]
        samples = alternate(contenders, arguments.rounds)
        for family, programs in peers.families.items():
            quantities = _quantities(threads, targets[family])
            comparisons += against_the_better(
                [one for name in programs for one in compared(samples, "dure", name, quantities)]
            )
    settings = {"model": model.name, "-p": arguments.p, "-n": arguments.n,
                "rounds": arguments.rounds, "cpus": arguments.cpus or "all",
                **peers.left_out}  # fmt: skip
    return report("one_process", settings, comparisons, arguments.json)


def _quantities(threads: int, targets: Mapping[str, float]) -> list[Quantity]:
    return [
        Quantity(part, f"{part}, -t {threads}", "tokens/s", target)
        for part, target in targets.items()
    ]


if __name__ == "__main__":
    main(run)
