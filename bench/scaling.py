"""Speed by the number of machines, and the parts of a token's time: dure and Distributed Llama.

One host (network namespace) per rank, one thread each, on one switch with 1 Gbit/s links. If there are
enough CPUs, each rank has its own; otherwise ranks share CPUs and an all-reduce waits for a turn on one:
such figures are of this machine, not of n boards.
Distributed Llama (DURE_DLLAMA) takes part with 1, 2 and 4 nodes, if it is there. Needs root.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from contenders import Load, dllama_on_hosts, dure, dure_on_hosts, installed_program
from hosts import RATE, Host, linked_hosts
from measure import (
    Contender,
    Quantity,
    Sample,
    compare_with_each,
    main,
    parser,
    positive,
    report,
)
from shapes import add_model_options, dllama_files, gguf_file

DLLAMA_COUNTS = (1, 2, 4)  # it runs on powers of two only


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=3)
    add_model_options(options)
    options.add_argument("-p", type=positive, default=128, help="prompt tokens (%(default)s)")
    options.add_argument("-n", type=positive, default=64, help="generated tokens (%(default)s)")
    options.add_argument("-r", type=positive, default=5, help="runs in a round (%(default)s)")
    options.add_argument("--most", type=positive, default=4, help="ranks at most (%(default)s)")
    options.add_argument("--rate", default=RATE, help="of the links, for tc (default %(default)s)")
    arguments = options.parse_args()
    installed_program("dure")
    model = gguf_file(arguments.shape, arguments.dir)
    load = Load(arguments.p, arguments.n, repeats=arguments.r)
    with linked_hosts(max(2, arguments.most), arguments.rate) as hosts:
        contenders = [
            Contender(f"dure, {n}", _dure(hosts[:n], partial(dure, model, 1, 1, load), model, load))
            for n in range(1, arguments.most + 1)
        ]
        if os.environ.get("DURE_DLLAMA"):
            files = dllama_files(arguments.shape, arguments.dir)
            contenders += [
                Contender(f"dllama, {n}", partial(dllama_on_hosts, hosts[:n], *files, load))
                for n in DLLAMA_COUNTS
                if n <= arguments.most
            ]
        quantities = [
            *(Quantity(part, part, "tokens/s", None) for part in ("prompt", "generation")),
            *(
                Quantity(f"{part}_ms", f"{part} a token", "ms", None)
                for part in ("compute", "sync")
            ),
        ]
        goals = {contender.name: quantities for contender in contenders[1:]}
        comparisons = compare_with_each(goals, contenders, arguments.rounds)
    settings = {"model": model.name, "-p": arguments.p, "-n": arguments.n,
                "rounds": arguments.rounds, "link": arguments.rate}  # fmt: skip
    return report("scaling", settings, comparisons, arguments.json)


def _dure(
    hosts: list[Host], alone: Callable[[], Sample], model: Path, load: Load
) -> Callable[[], Sample]:
    """Return the measurement of dure on these hosts; one rank needs no network."""
    return alone if len(hosts) == 1 else partial(dure_on_hosts, hosts, model, load)


if __name__ == "__main__":
    main(run)
