"""Serving: `dure serve` compared with llama.cpp's llama-server, with 1, 8 and 32 streaming clients.

Both serve the same file with the same threads, slots and context per slot, are restarted for every
round, and get the same requests. llama-server runs without and with flash attention; the table has the
better of both, by name. Needs llama-server (DURE_LLAMA_SERVER) and a vocabulary (DURE_VOCABULARY), or a
model of your own; see bench/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from contenders import llama_server_program
from measure import (
    Comparison,
    Contender,
    Quantity,
    Sample,
    Spread,
    against_the_better,
    alternate,
    machine,
    main,
    parser,
    positive,
    table,
)
from serve_client import Address, stream
from serve_load import Api, Burst, Load, burst, prefix_start
from serve_model import serving_model, vocabulary_file
from serve_servers import PEERS, SERVERS, US, Setting, running
from serve_soak import soak
from shapes import add_model_options

SPEED_TARGET = 1.0
P99_TARGET = 1.0  # of first texts, and between texts
P99_CLIENTS = 8
PREFIX_TARGET = 0.1
NO_TARGET = None


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    arguments = _command_line().parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # stops the server too
    setting = _setting(arguments)
    if arguments.soak:
        return soak(arguments.server, setting, arguments.soak * 60, arguments.json)
    llama_server_program()
    load = Load(arguments.prompt_tokens, arguments.max_tokens, arguments.requests,
                Api(arguments.api), arguments.temperature)  # fmt: skip
    measure = partial(_measure, setting=setting, load=load, clients=arguments.clients,
                      prefix_tokens=arguments.prefix_tokens)  # fmt: skip
    contenders = [Contender(name, partial(measure, name)) for name in SERVERS]
    samples = alternate(contenders, arguments.rounds)
    return _report(arguments, setting, samples)


def _command_line() -> argparse.ArgumentParser:
    options = parser(__doc__, rounds=5)
    add_model_options(options)
    add = options.add_argument
    add("--vocabulary", type=Path, help="a GGUF with the vocabulary (default: $DURE_VOCABULARY)")
    add("--model", type=Path, help="a GGUF file, instead of --shape and --vocabulary")
    add("--threads", type=positive, default=2, help="of each server (%(default)s)")
    add("--slots", type=positive, default=32, help="answers at once (%(default)s)")
    add("--context", type=positive, default=2048, help="tokens for each slot (%(default)s)")
    add("--clients", type=positive, nargs="+", default=[1, 8, 32], metavar="N",
        help="how many ask at once (default 1 8 32)")  # fmt: skip
    add("--requests", type=positive, default=2, help="of each client, in turn (%(default)s)")
    add("--prompt-tokens", type=positive, default=128, help="of each request (%(default)s)")
    add("--max-tokens", type=positive, default=64, help="of each answer (%(default)s)")
    add("--prefix-tokens", type=positive, default=1000,
        help="of the prompt that is asked twice, cold and cached (%(default)s)")  # fmt: skip
    add("--api", choices=[api.value for api in Api], default=Api.COMPLETIONS.value,
        help="the end point (%(default)s)")  # fmt: skip
    add("--temperature", type=float, default=0.0, help="default %(default)s: greedy")
    add("--soak", type=float, metavar="MINUTES",
        help="instead: mixed load with hang-ups on one server, and its memory")  # fmt: skip
    add("--server", choices=list(SERVERS), default=US, help="the one to soak (%(default)s)")
    return options


def _setting(arguments: argparse.Namespace) -> Setting:
    model = arguments.model or serving_model(
        arguments.shape, vocabulary_file(arguments.vocabulary), arguments.dir
    )
    return Setting(model, arguments.threads, arguments.slots, arguments.context)


def _measure(
    name: str, *, setting: Setting, load: Load, clients: Sequence[int], prefix_tokens: int
) -> Sample:
    sample: dict[str, float] = {}
    with running(name, setting) as server:
        _warm_up(server.address, load)
        for count in clients:
            seen = burst(server.address, load, count, seed=count * 10_000)
            sample |= {f"{quantity}-{count}": getattr(seen, quantity) for quantity in _FIGURES}
        starts = prefix_start(server.address, prefix_tokens, seed=1)
        sample |= {"cold": starts.cold, "cached": starts.cached}
    return sample


def _warm_up(address: Address, load: Load) -> None:
    for seed in range(2):
        asyncio.run(stream(address, load.api.path, load.body(seed - 100)))


_FIGURES = tuple(Burst.__dataclass_fields__)


def _quantities(clients: Sequence[int]) -> list[Quantity]:
    found = []
    for count in clients:
        named = f"{count} client{'s' if count > 1 else ''}"
        p99_target = P99_TARGET if count == P99_CLIENTS else NO_TARGET
        for key, label, unit, target in (
            ("tokens_per_s", "speed", "tokens/s", SPEED_TARGET),
            ("first_p50", "first text, p50", "s", NO_TARGET),
            ("first_p99", "first text, p99", "s", p99_target),
            ("gap_p50", "between texts, p50", "s", NO_TARGET),
            ("gap_p99", "between texts, p99", "s", p99_target),
            ("client_cpu", "the clients' own processor", "cores", NO_TARGET),
        ):
            found.append(
                Quantity(f"{key}-{count}", f"{named}: {label}", unit, target,
                         at_least=key == "tokens_per_s")
            )  # fmt: skip
    return found


def _report(
    arguments: argparse.Namespace, setting: Setting, samples: dict[str, list[Sample]]
) -> int:
    comparisons = against_the_better([
        _comparison(quantity, {name: [s[quantity.key] for s in samples[name]]
                               for name in (US, peer)})
        for quantity in _quantities(arguments.clients) for peer in PEERS
    ])  # fmt: skip
    prefixes = [_prefix(name, samples[name], arguments.prefix_tokens) for name in SERVERS]
    settings = {
        "model": setting.model.name, "threads": setting.threads, "slots": setting.slots,
        "context": setting.context, "prompt": arguments.prompt_tokens,
        "tokens": arguments.max_tokens, "requests": arguments.requests, "api": arguments.api,
        "temperature": arguments.temperature, "rounds": arguments.rounds,
    }  # fmt: skip
    every = [*comparisons, *prefixes]
    if arguments.json:
        document = {"bench": "serve", "settings": settings, "machine": machine(),
                    "comparisons": [comparison.as_json() for comparison in every]}  # fmt: skip
        print(json.dumps(document, indent=2))
    else:
        print("  ".join(f"{name} {value}" for name, value in settings.items()))
        print(table(comparisons))
        print()
        print(table(prefixes))
    return 0 if all(comparison.met for comparison in [*comparisons, prefixes[0]]) else 1


def _comparison(quantity: Quantity, values: dict[str, list[float]]) -> Comparison:
    spreads = {name: Spread.of(runs) for name, runs in values.items()}
    first, second = spreads.values()
    return Comparison(quantity, spreads, first.median / second.median)


def _prefix(name: str, samples: Sequence[Sample], tokens: int) -> Comparison:
    target = PREFIX_TARGET if name == US else NO_TARGET
    quantity = Quantity("", f"{name}: first text, {tokens} tokens before", "s", target, False)
    return _comparison(
        quantity, {key: [sample[key] for sample in samples] for key in ("cached", "cold")}
    )


if __name__ == "__main__":
    main(run)
