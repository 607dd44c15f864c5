"""What one client's request costs another: the wait of a client that asks for one token.

For each demanding request (many answers at once, long grammars, large schemas) it is measured how long the
request takes until its first text, and how long the other client waits meanwhile, over its wait alone. Both
have a key of their own. All texts differ, so nothing is found in a cache.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import BenchError, Sample, Spread, machine, main, parser, positive
from serve_client import Address, Body, fetch
from serve_load import percentile
from serve_servers import Setting, dure_serve, running_command

DEMO = Path(__file__).parent.parent / "models" / "dure-demo.gguf"
PATH = "/v1/chat/completions"
MOST_WAIT = 2.0  # of the other client, times its wait alone, at the median
MOST_S = 1.0  # of a request that a grammar is made for
LEAST_SAMPLES = 20


@dataclass(frozen=True)
class Demand:
    """A demanding request. n_times: it is sent so often, one after the other. is_grammar: see MOST_S."""

    body: Mapping[str, Any]
    n_times: int = 4
    is_grammar: bool = True


def _schema(properties: Mapping[str, Any], required: list[str]) -> Mapping[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required,
              "additionalProperties": False}  # fmt: skip
    return {"response_format": {"type": "json_schema",
                                "json_schema": {"name": "answer", "schema": schema}}}  # fmt: skip


def _listed(n: int) -> Mapping[str, Any]:
    return _schema({"x": {"enum": [f"value {i * 7919 % 100_003}" for i in range(n)]}}, ["x"])


def _optional(n: int) -> Mapping[str, Any]:
    return _schema({f"property_{i}": {"type": "integer"} for i in range(n)}, [])


def _alternatives(n: int) -> Mapping[str, Any]:
    return {"grammar": "root ::= " + " | ".join(f'"word {i}"' for i in range(n))}


DEMANDS = {
    "n = 64, 8 tokens each": Demand(
        {"n": 64, "max_tokens": 8, "ignore_eos": True}, is_grammar=False
    ),
    "a grammar of 3,000 alternatives": Demand(_alternatives(3000)),
    "400 optional properties": Demand(_optional(400)),
    "1,000 optional properties": Demand(_optional(1000)),
    "an enum of 10,000 values": Demand(_listed(10_000)),
}


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=3)
    add = options.add_argument
    add(
        "--model",
        type=Path,
        default=DEMO,
        help="a GGUF with a chat template (default: the demo model)",
    )
    add("--threads", type=positive, default=1, help="of the server (%(default)s)")
    add("--slots", type=positive, default=4, help="answers at once (%(default)s)")
    arguments = options.parse_args()
    samples: dict[str, list[Sample]] = {name: [] for name in DEMANDS}
    with tempfile.NamedTemporaryFile("w", prefix="dure-keys-") as keys:
        keys.write("".join(f"{key}:key-of-{key}\n" for key in ("demanding", "modest")))
        keys.flush()

        def command(setting: Setting, port: int) -> list[str]:
            return dure_serve(setting, port, more=("--api-key-file", keys.name))

        setting = Setting(arguments.model, arguments.threads, arguments.slots, 1024)
        for round_ in range(arguments.rounds):
            with running_command("dure", command, setting) as server:
                for i, (name, demand) in enumerate(DEMANDS.items()):
                    seed = 10_000 * (100 * round_ + i)
                    samples[name].append(asyncio.run(_measure(server.address, demand, seed)))
    return _report(samples, as_json=arguments.json)


async def _measure(address: Address, demand: Demand, seed: int) -> Sample:
    alone = [await _wait(address, seed + i) for i in range(2 * LEAST_SAMPLES)]
    busy = asyncio.create_task(_demand(address, demand, seed))
    beside = list[float]()
    while not busy.done():
        beside.append(await _wait(address, seed + 5000 + len(beside)))
    took = await busy
    if not beside:
        raise BenchError("the demanding request was over before the other client had an answer")
    return {
        "alone": percentile(alone, 50), "beside": percentile(beside, 50), "longest": max(beside),
        "times": percentile(beside, 50) / percentile(alone, 50), "took": took,
    }  # fmt: skip


async def _demand(address: Address, demand: Demand, seed: int) -> float:
    """Send the demanding request some times; return the median of its seconds."""
    took = []
    for i in range(demand.n_times):
        took.append(await _ask(address, "demanding", seed + i, {"max_tokens": 1, **demand.body}))
    return percentile(took, 50)


async def _wait(address: Address, seed: int) -> float:
    return await _ask(address, "modest", seed, {"max_tokens": 1})


async def _ask(address: Address, key: str, seed: int, more: Body) -> float:
    """Send one request, not streamed; return its seconds."""
    begun = asyncio.get_running_loop().time()
    body = {"messages": [{"role": "user", "content": f"{seed} sheep, and a goat?"}], **more}
    with_key = Address(address.host, address.port, f"key-of-{key}")
    await fetch(with_key, "POST", PATH, body)
    return asyncio.get_running_loop().time() - begun


def _report(samples: Mapping[str, list[Sample]], *, as_json: bool) -> int:
    rows = {
        name: {key: Spread.of([sample[key] for sample in runs]).median for key in runs[0]}
        for name, runs in samples.items()
    }
    missed = [
        name
        for name, row in rows.items()
        if row["times"] > MOST_WAIT or (DEMANDS[name].is_grammar and row["took"] > MOST_S)
    ]
    if as_json:
        document = {"bench": "holdups", "machine": machine(), "rows": rows, "missed": missed}
        print(json.dumps(document, indent=2))
        return 1 if missed else 0
    print(f"{'request':34}{'took':>9}{'alone':>10}{'beside':>10}{'longest':>10}{'times':>8}")
    for name, row in rows.items():
        waits = "".join(f"{row[key] * 1e3:7.0f} ms" for key in ("alone", "beside", "longest"))
        verdict = "MISSED" if name in missed else "met"
        print(f"{name:34}{row['took']:7.2f} s{waits}{row['times']:8.2f}  {verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    main(run)
