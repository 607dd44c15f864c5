"""Long contexts: how generation slows down with the tokens in the context.

dure in one process and, if the script runs as root, on two hosts (network namespaces) with a
1 Gbit/s link, beside llama-bench in one process, without and with flash attention, and ik_llama.cpp's with
four combinations of its flags: all on the same two CPUs. The table has the better of each, by name: for the
speed, for its fraction of the contender's own speed with an empty context, and for the time by which the
context lengthens a token. That time has the target: the fraction falls just because everything else in a
token is quicker.
Needs llama-bench (DURE_LLAMA_BENCH), and takes ik_llama.cpp's if it is given (DURE_IK_BENCH); see
bench/README.md.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from contenders import (
    Load,
    dure,
    dure_on_hosts,
    installed_program,
    llama_bench_program,
    peers_in_one_process,
)
from hosts import RATE, linked_hosts
from measure import (
    Contender,
    Quantity,
    Sample,
    against_the_better,
    alternate,
    compared,
    main,
    parser,
    positive,
    report,
)
from shapes import add_model_options, gguf_file

MOST = 1.0  # what the context adds to a token of dure's, over what it adds to one of a peer's


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=3)
    add_model_options(options)
    options.add_argument(
        "--depths", type=positive, nargs="+", default=[4096, 16384], metavar="D",
        help="tokens in the context (default 4096 16384)",
    )  # fmt: skip
    options.add_argument("-n", type=positive, default=32, help="generated tokens (%(default)s)")
    options.add_argument("-r", type=positive, default=2, help="runs in a round (%(default)s)")
    arguments = options.parse_args()
    llama_bench_program()
    installed_program("dure")
    model = gguf_file(arguments.shape, arguments.dir)
    load = Load(0, arguments.n, repeats=arguments.r)
    ours: dict[str, Callable[[Load], Sample]] = {"dure": partial(dure, model, 1, 2)}
    peers = peers_in_one_process(model)
    theirs: dict[str, Callable[[Load], Sample]] = {
        name: partial(program, 2) for name, program in peers.programs().items()
    }
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:
            hosts = stack.enter_context(linked_hosts(2, RATE))
            ours["dure, 2 hosts"] = partial(dure_on_hosts, hosts, model)
        contenders = [
            Contender(name, partial(_speeds, program, load, arguments.depths))
            for name, program in {**ours, **theirs}.items()
        ]
        quantities = [
            quantity
            for depth in arguments.depths
            for quantity in (
                Quantity(f"at {depth}", f"generation at {depth}", "tokens/s", None),
                Quantity(f"left {depth}", f"left at {depth}", "of that at 0", None),
                Quantity(
                    f"added {depth}", f"added to a token by {depth}", "ms", MOST, at_least=False
                ),
            )
        ]
        samples = alternate(contenders, arguments.rounds)
    comparisons = [
        comparison
        for own in ours
        for programs in peers.families.values()
        for comparison in against_the_better(
            [one for peer in programs for one in compared(samples, own, peer, quantities)]
        )
    ]
    settings = {"model": model.name, "-n": arguments.n, "rounds": arguments.rounds,
                **peers.left_out}  # fmt: skip
    return report("depth", settings, comparisons, arguments.json)


def _speeds(program: Callable[[Load], Sample], load: Load, depths: list[int]) -> dict[str, float]:
    """Return tokens/s at every depth, its fraction of the first, and the ms that the depth adds."""
    empty = program(load)["generation"]
    found = {"at 0": empty}
    for depth in depths:
        speed = program(replace(load, depth=depth))["generation"]
        added_ms = 1e3 / speed - 1e3 / empty
        found |= {f"at {depth}": speed, f"left {depth}": speed / empty, f"added {depth}": added_ms}
    return found


if __name__ == "__main__":
    main(run)
