"""Two nodes on a 1 Gbit/s link: dure, Distributed Llama and llama.cpp, same weights, same cores.

Two hosts (network namespaces) are joined by a link shaped to 1 Gbit/s. Each contender gets both,
one thread and one CPU on each, and exchanges 8-bit vectors if it can. Peers take part if their
environment variables are set:

    dllama        Distributed Llama on both hosts (DURE_DLLAMA)
    one-process   llama-bench, 2 threads in one process, no network (DURE_LLAMA_BENCH); twice, without
                  and with flash attention (-fa 0, -fa 1)
    rpc-layer     llama-bench over an RPC server on each host, split by layers (DURE_RPC_SERVER too)
    rpc-tensor    the same, every tensor split; both RPCs run once, as they are slow and have no target
    floor         no program: the time to read each rank's weights and to exchange each partial sum, by
                  the speed of memory and link measured in dure's run

Prompt and generation each begin with an empty cache. Needs root and two CPUs; see bench/README.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from contenders import (
    Load,
    dllama_on_hosts,
    dure_and_floor_on_hosts,
    installed_program,
    llama_bench,
    llama_rpc_on_hosts,
)
from hosts import RATE, Host, linked_hosts
from measure import (
    BenchError,
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

NEEDED = {
    "dllama": ("DURE_DLLAMA",),
    "one-process -fa 0": ("DURE_LLAMA_BENCH",),
    "one-process -fa 1": ("DURE_LLAMA_BENCH",),
    "rpc-layer": ("DURE_LLAMA_BENCH", "DURE_RPC_SERVER"),
    "rpc-tensor": ("DURE_LLAMA_BENCH", "DURE_RPC_SERVER"),
    "floor": (),
}
ONE_PROCESS = ("one-process -fa 0", "one-process -fa 1")
PROMPT, GENERATION = (
    {"dllama": 2.4, **dict.fromkeys(ONE_PROCESS, 0.85), "rpc-layer": None, "rpc-tensor": None},
    {
        "dllama": 2.3,
        **dict.fromkeys(ONE_PROCESS, 0.95),
        "rpc-layer": None,
        "rpc-tensor": None,
        "floor": 0.8,
    },
)  # targets of the ratios
LEAST_BYTES_PER_TOKEN = 1024
T = TypeVar("T")


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=5)
    add_model_options(options)
    options.add_argument("-p", type=positive, default=512, help="prompt tokens (%(default)s)")
    options.add_argument("-n", type=positive, default=64, help="generated tokens (%(default)s)")
    options.add_argument("-r", type=positive, default=5, help="runs in a round (%(default)s)")
    options.add_argument("--rate", default=RATE, help="of the link, for tc (default %(default)s)")
    options.add_argument("--peers", nargs="+", choices=NEEDED, help="only these")
    arguments = options.parse_args()
    peers = arguments.peers or [
        peer for peer, names in NEEDED.items() if all(map(os.environ.get, names))
    ]
    installed_program("dure")
    if len(os.sched_getaffinity(0)) < 2:
        raise BenchError("two nodes of one core each need two CPUs")
    model = gguf_file(arguments.shape, arguments.dir)
    files = dllama_files(arguments.shape, arguments.dir) if "dllama" in peers else (model, model)
    load = Load(arguments.p, arguments.n, repeats=arguments.r)
    with linked_hosts(2, arguments.rate) as hosts:
        measured = _measured(hosts, model, files, load)
        contenders = [
            Contender(name, measured[name], once=name.startswith("rpc"))
            for name in ("dure", *peers)
        ]
        goals = {peer: _goals(peer) for peer in peers}
        comparisons = compare_with_each(goals, contenders, arguments.rounds)
    settings = {"model": model.name, "-p": arguments.p, "-n": arguments.n,
                "rounds": arguments.rounds, "link": arguments.rate}  # fmt: skip
    return report("two_nodes", settings, comparisons, arguments.json)


def _measured(
    hosts: Sequence[Host], model: Path, files: tuple[Path, Path], load: Load
) -> dict[str, Callable[[], Sample]]:
    crossed = partial(_over_link, hosts, load)
    dure, floor = _halves(crossed(partial(dure_and_floor_on_hosts, hosts, model, load)))
    return {
        "dure": dure,
        "dllama": crossed(partial(dllama_on_hosts, hosts, *files, load)),
        "one-process -fa 0": partial(llama_bench, model, 2, load, more=("-fa", "0")),
        "one-process -fa 1": partial(llama_bench, model, 2, load, more=("-fa", "1")),
        "rpc-layer": crossed(partial(llama_rpc_on_hosts, hosts, model, "layer", load)),
        "rpc-tensor": crossed(partial(llama_rpc_on_hosts, hosts, model, "tensor", load)),
        "floor": floor,
    }


def _halves(
    measure: Callable[[], tuple[Sample, Sample]],
) -> tuple[Callable[[], Sample], Callable[[], Sample]]:
    """Return two contenders; the first one in a round measures both."""
    saved: list[list[Sample]] = [[], []]

    def half(i: int) -> Sample:
        if not saved[i]:
            for samples, sample in zip(saved, measure(), strict=True):
                samples[:] = [sample]
        return saved[i].pop()

    return partial(half, 0), partial(half, 1)


def _goals(peer: str) -> list[Quantity]:
    return [
        Quantity(part, part, "tokens/s", targets[peer])
        for part, targets in (("prompt", PROMPT), ("generation", GENERATION))
        if peer in targets
    ]


def _over_link(hosts: Sequence[Host], load: Load, measure: Callable[[], T]) -> Callable[[], T]:
    """Return a `measure` that fails if its traffic did not cross the link between the hosts."""
    least = LEAST_BYTES_PER_TOKEN * (load.prompt_tokens + load.generation_tokens)

    def checked() -> T:
        before = [host.bytes_sent() for host in hosts]
        measured = measure()
        sent = [host.bytes_sent() - was for host, was in zip(hosts, before, strict=True)]
        if sum(sent) < least:
            raise BenchError(
                f"the hosts sent {sent} bytes, fewer than the {least} this load needs: the ranks did "
                "not talk over the link"
            )
        return measured

    return checked


if __name__ == "__main__":
    main(run)
