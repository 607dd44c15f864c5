"""Two nodes on a 1 Gbit/s link: dure against Distributed Llama, same weights, same cores.

Two hosts (network namespaces) are joined by a link shaped to 1 Gbit/s. Each contender gets both,
one thread and one CPU on each, and exchanges 8-bit vectors. Prompt and generation each begin with
an empty cache. Needs root, two CPUs and dllama (DURE_DLLAMA); see bench/README.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from contenders import (
    PARTS,
    Load,
    dllama_on_hosts,
    dllama_program,
    dure_on_hosts,
    installed_program,
)
from hosts import RATE, Host, linked_hosts
from measure import (
    BenchError,
    Contender,
    Quantity,
    Sample,
    compare,
    main,
    parser,
    positive,
    report,
)
from shapes import add_model_options, dllama_files, gguf_file

TARGET = 2.0
LEAST_BYTES_PER_TOKEN = 1024


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=5)
    add_model_options(options)
    options.add_argument("-p", type=positive, default=128, help="prompt tokens (%(default)s)")
    options.add_argument("-n", type=positive, default=64, help="generated tokens (%(default)s)")
    options.add_argument("--rate", default=RATE, help="of the link, for tc (default %(default)s)")
    arguments = options.parse_args()
    dllama_program()
    installed_program("dure")
    if len(os.sched_getaffinity(0)) < 2:
        raise BenchError("two nodes of one core each need two CPUs")
    model = gguf_file(arguments.shape, arguments.dir)
    files = dllama_files(arguments.shape, arguments.dir)
    load = Load(arguments.p, arguments.n)
    with linked_hosts(2, arguments.rate) as hosts:
        contenders = [
            Contender("dure", _over_link(hosts, load, partial(dure_on_hosts, hosts, model, load))),
            Contender(
                "dllama", _over_link(hosts, load, partial(dllama_on_hosts, hosts, *files, load))
            ),
        ]
        quantities = [Quantity(part, part, "tokens/s", TARGET) for part in PARTS]
        comparisons = compare(quantities, contenders, arguments.rounds)
    settings = {"model": model.name, "-p": arguments.p, "-n": arguments.n,
                "rounds": arguments.rounds, "link": arguments.rate}  # fmt: skip
    return report("two_nodes", settings, comparisons, arguments.json)


def _over_link(
    hosts: Sequence[Host], load: Load, measure: Callable[[], Sample]
) -> Callable[[], Sample]:
    """`measure`, which fails when its traffic did not cross the link between the hosts."""
    least = LEAST_BYTES_PER_TOKEN * (load.prompt_tokens + load.generation_tokens)

    def checked() -> Sample:
        before = [host.bytes_sent() for host in hosts]
        sample = measure()
        for host, sent_before in zip(hosts, before, strict=True):
            sent = host.bytes_sent() - sent_before
            if sent < least:
                raise BenchError(
                    f"host {host.name} sent {sent} bytes, fewer than the {least} this load needs: "
                    "the ranks did not talk over the link"
                )
        return sample

    return checked


if __name__ == "__main__":
    main(run)
