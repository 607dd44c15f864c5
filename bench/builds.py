"""Two builds of dure: this one against another, in one process, on two nodes, and serving.

For a change that must not cost speed: both compute the same with the same threads, in turns. The other
build is an environment of its own, DURE_OTHER=/path/to/its/bin/dure. Two nodes need root and two CPUs;
serving needs a vocabulary (DURE_VOCABULARY); each is left out if it cannot be measured here.

    DURE_OTHER=../before/.venv/bin/dure python bench/builds.py
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from contenders import PARTS, Load, dure, dure_on_hosts
from hosts import linked_hosts
from measure import (
    BenchError,
    Comparison,
    Contender,
    Quantity,
    Sample,
    compare,
    main,
    parser,
    positive,
    report,
)
from serve_load import Api, burst
from serve_load import Load as ServingLoad
from serve_model import serving_model, vocabulary_file
from serve_servers import Setting, dure_serve, running_command
from shapes import MIXES, add_model_options, gguf_file

TARGET = 0.99
PLACES = ("one-process", "two-nodes", "serving")


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=5)
    add_model_options(options)
    add = options.add_argument
    add("--places", nargs="+", choices=PLACES, default=PLACES, help="only these")
    add("--mixes", nargs="+", choices=MIXES, default=list(MIXES), help="types, in one process")
    add("-p", type=positive, default=256, help="prompt tokens (%(default)s)")
    add("-n", type=positive, default=64, help="generated tokens (%(default)s)")
    add("-r", type=positive, default=3, help="runs in a round (%(default)s)")
    arguments = options.parse_args()
    other = os.environ.get("DURE_OTHER")
    if not other or not os.access(other, os.X_OK):
        raise BenchError("set DURE_OTHER to the `dure` of another build's environment")
    load, rounds = Load(arguments.p, arguments.n, repeats=arguments.r), arguments.rounds
    comparisons: list[Comparison] = []
    measure: Callable[..., Sample]
    if "one-process" in arguments.places:
        for mix in arguments.mixes:
            model = gguf_file(arguments.shape, arguments.dir, mix)
            for threads in (1, 2):
                measure = partial(dure, model, 1, threads, load)
                comparisons += _compared(f"{mix}, -t {threads}", PARTS, measure, other, rounds)
    model = gguf_file(arguments.shape, arguments.dir)
    if "two-nodes" in arguments.places and os.geteuid() == 0:
        with linked_hosts(2) as hosts:
            measure = partial(dure_on_hosts, hosts, model, load)
            comparisons += _compared("two nodes", PARTS, measure, other, rounds)
    if "serving" in arguments.places and os.environ.get("DURE_VOCABULARY"):
        served = serving_model(arguments.shape, vocabulary_file(None), arguments.dir)
        for clients in (1, 8):
            measure = partial(_serve, Setting(served, 2, 8, 1024), clients)
            comparisons += _compared(f"{clients} clients", ("speed",), measure, other, rounds)
    settings = {"-p": arguments.p, "-n": arguments.n, "rounds": rounds, "shape": arguments.shape}
    return report("builds", settings, comparisons, arguments.json)


def _compared(
    where: str,
    parts: Sequence[str],
    measure: Callable[..., Sample],
    other: str,
    rounds: int,
) -> list[Comparison]:
    contenders = [Contender("this", measure), Contender("other", partial(measure, program=other))]
    quantities = [Quantity(part, f"{where}: {part}", "tokens/s", TARGET) for part in parts]
    return compare(quantities, contenders, rounds)


def _serve(setting: Setting, clients: int, program: str | None = None) -> Sample:
    load = ServingLoad(128, 64, 2, Api.COMPLETIONS, 0.0)
    with running_command("dure", partial(dure_serve, program=program), setting) as server:
        burst(server.address, load, 1, seed=1)
        measured = burst(server.address, load, clients, seed=clients * 10_000)
    return {"speed": measured.tokens_per_s}


if __name__ == "__main__":
    main(run)
