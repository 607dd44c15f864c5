"""Two builds of dure: this one against another, in one process, on two nodes, and serving.

For a change that must not cost speed. Both serve the same model from the beginning; one answers while the
other waits, in turns of a second or two, so a machine whose speed drifts is as fast for both. The other
build is an environment of its own, DURE_OTHER=/path/to/its/bin/dure. Prompts and answers are sent to
servers, so a vocabulary is needed (DURE_VOCABULARY); two nodes need root and two CPUs, and are left out
elsewhere.

    DURE_OTHER=../before/.venv/bin/dure python bench/builds.py
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from contenders import PARTS, on_hosts
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
from serve_client import Address, fetch
from serve_load import FIRST_WORD, LAST_WORD, Load, burst
from serve_model import serving_model, vocabulary_file
from serve_servers import Setting, dure_serve, running_command
from shapes import COMMON_MIXES, MIXES, add_model_options

TARGET = 0.99
PLACES = ("one-process", "two-nodes", "serving")
ALONE = ("--draft", "off")  # every token is computed: how much is guessed depends on times

Measure = Callable[[Address], Sample]


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=25)
    add_model_options(options)
    add = options.add_argument
    add("--places", nargs="+", choices=PLACES, default=PLACES, help="only these")
    add(
        "--mixes",
        nargs="+",
        choices=MIXES,
        default=list(COMMON_MIXES),
        help="types, in one process",
    )
    add("--threads", nargs="+", type=positive, default=[1, 2], help="in one process")
    add("-p", type=positive, default=256, help="prompt tokens (%(default)s)")
    add("-n", type=positive, default=32, help="generated tokens (%(default)s)")
    arguments = options.parse_args()
    other = os.environ.get("DURE_OTHER")
    if not other or not os.access(other, os.X_OK):
        raise BenchError("set DURE_OTHER to the `dure` of another build's environment")
    model = partial(serving_model, arguments.shape, vocabulary_file(None), arguments.dir)
    measure = partial(_one_answer, arguments.p, arguments.n)
    both = partial(_compared, other, arguments.rounds)
    comparisons: list[Comparison] = []
    if "one-process" in arguments.places:
        for mix in arguments.mixes:
            for threads in arguments.threads:
                setting = Setting(model(mix), threads, 1, 1024)
                comparisons += both(f"{mix}, -t {threads}", setting, ALONE, PARTS, measure)
    if "two-nodes" in arguments.places and os.geteuid() == 0:
        with linked_hosts(2) as hosts, _environment(on_hosts(hosts)):
            setting = Setting(model(), 1, 1, 1024)
            more = (*ALONE, "--ranks", "2")
            comparisons += both("two nodes", setting, more, PARTS, measure)
    if "serving" in arguments.places:
        for clients in (1, 8):
            setting = Setting(model(), 2, 8, 1024)
            comparisons += both(
                f"{clients} clients", setting, (), ("speed",), partial(_burst, clients)
            )
    settings = {"-p": arguments.p, "-n": arguments.n, "rounds": arguments.rounds}
    return report("builds", settings | {"shape": arguments.shape}, comparisons, arguments.json)


def _compared(
    other: str,
    rounds: int,
    where: str,
    setting: Setting,
    more: Sequence[str],
    parts: Sequence[str],
    measure: Measure,
) -> list[Comparison]:
    contenders = []
    with ExitStack() as stack:
        for name, program in (("this", None), ("other", other)):
            command = partial(dure_serve, program=program, more=more)
            server = stack.enter_context(running_command(f"dure-{name}", command, setting))
            measure(server.address)  # once unmeasured: weights are read, and kernels chosen
            contenders.append(Contender(name, partial(measure, server.address)))
        quantities = [Quantity(part, f"{where}: {part}", "tokens/s", TARGET) for part in parts]
        return compare(quantities, contenders, rounds)


@contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _one_answer(prompt_tokens: int, tokens: int, address: Address) -> Sample:
    """Return the speeds that a server reports of one answer to a prompt of random tokens."""
    body = {
        "prompt": [random.randint(FIRST_WORD, LAST_WORD) for _ in range(prompt_tokens)],
        "n_predict": tokens,
        "ignore_eos": True,
        "temperature": 0,
    }
    answer = json.loads(asyncio.run(fetch(address, "POST", "/completion", body)))
    try:
        timings = answer["timings"]
        rates = (timings["prompt_per_second"], timings["predicted_per_second"])
    except (KeyError, TypeError) as error:
        raise BenchError(f"`dure serve` answered something else: {answer}") from error
    return dict(zip(PARTS, map(float, rates), strict=True))


def _burst(clients: int, address: Address) -> Sample:
    seed = random.randrange(1 << 30)
    return {"speed": burst(address, Load(128, 64, 1), clients, seed=seed).tokens_per_s}


if __name__ == "__main__":
    main(run)
