"""Routes by predicted finish time beside simpler policies, on a mixed trace: short chats, long documents.

The other policies name the target in a header: always the cluster, always the single board, by the prompt's
length (the best of three limits), and as LiteLLM's complexity router would with its defaults: SIMPLE and
MEDIUM to the board, COMPLEX and REASONING to the cluster. All go through `dure route serve`, whose decision
is learned from the answers alone.

The machines are simulated by their speeds (route_upstream.py): waiting, not computing. Times are those of
the simulation, whose speeds are ten times those of the boards that they stand for.

LiteLLM is installed apart: python -m venv litellm && litellm/bin/pip install litellm
    python bench/route_trace.py --litellm litellm/bin/python
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import uvloop
from measure import (
    BenchError,
    Contender,
    Quantity,
    Sample,
    alternate,
    compared,
    main,
    parser,
    positive,
    report,
)
from route_requests import Asked, trace
from route_servers import HEADERS, ask, client, router, upstream

from dure.route.decision_log import read_log
from dure.route.report import NEAR

SPEEDS = {"single": "600,90,4,0.4", "cluster": "1600,220,4,0.4"}
WORDS, ANSWERS = (600, 1500), (20, 60, 120)
LIMITS = (100, 800, 1100)  # words of a prompt, for the policy by length
OURS = "predicted"
QUANTITIES = (
    Quantity("mean_s", "finish, mean", "s", 1.0, at_least=False),
    Quantity("p95_s", "finish, 95 %", "s", 1.0, at_least=False),
)
Targets = Mapping[str, Sequence[str]]
"""By policy, whom each request of the trace names; "" leaves it to the router."""


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=3)
    add = options.add_argument
    add("--requests", type=positive, default=120, help="of a trace (%(default)s)")
    add("--per-s", type=float, default=2.4, help="requests a second, on average (%(default)s)")
    add("--litellm", type=Path, help="Python that LiteLLM is installed for")
    arguments = options.parse_args()
    asked = trace(arguments.requests, arguments.per_s, WORDS, ANSWERS)
    targets = _targets(asked, arguments.litellm)
    contenders = [Contender(name, partial(_measure, asked, targets[name])) for name in targets]
    samples = alternate(contenders, arguments.rounds)
    others = [name for name in targets if name != OURS]
    comparisons = [one for name in others for one in compared(samples, OURS, name, QUANTITIES)]
    settings = {"requests": len(asked), "per_s": arguments.per_s}
    status = report("route-trace", settings, comparisons, arguments.json)
    if not arguments.json:
        print(_rows(samples))
    return status


def _targets(asked: Sequence[Asked], litellm: Path | None) -> Targets:
    by_length = {
        f"by length, {limit}": [
            "cluster" if len(one.text.split()) > limit else "single" for one in asked
        ]
        for limit in LIMITS
    }
    return {
        OURS: [""] * len(asked),
        "always cluster": ["cluster"] * len(asked),
        "always single": ["single"] * len(asked),
        **by_length,
        **({"LiteLLM's complexity router": _by_litellm(litellm, asked)} if litellm else {}),
    }


def _by_litellm(python: Path, asked: Sequence[Asked]) -> list[str]:
    program = str(Path(__file__).with_name("route_litellm.py"))
    try:
        done = subprocess.run(
            [str(python), program],
            input=json.dumps([one.text for one in asked]).encode(),
            capture_output=True,
            check=True,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchError(f"{python} cannot ask LiteLLM: {error}") from error
    large = ("COMPLEX", "REASONING")
    tiers = json.loads(done.stdout.splitlines()[-1])
    return ["cluster" if tier in large else "single" for tier in tiers]


def _rows(samples: Mapping[str, Sequence[Sample]]) -> str:
    """Return the table of docs/router.md: the medians of all rounds."""
    rows = ["", "| policy | mean, s | 95 %, s | to the cluster |", "|---|---|---|---|"]
    for name, found in samples.items():
        mean_s, p95_s, part = (
            median(one[key] for one in found) for key in ("mean_s", "p95_s", "cluster")
        )
        rows.append(f"| {name} | {mean_s:.2f} | {p95_s:.2f} | {part:.0%} |")
    near = median(one["near"] for one in samples[OURS])
    return "\n".join([*rows, "", f"{near:.0%} of the finish times predicted within {NEAR:.0%}"])


def _measure(asked: Sequence[Asked], targets: Sequence[str]) -> Sample:
    with (
        tempfile.TemporaryDirectory(prefix="dure-route-") as directory,
        upstream(SPEEDS["single"]) as single,
        upstream(SPEEDS["cluster"]) as cluster,
    ):
        with router(Path(directory), {"single": single, "cluster": cluster}) as url:
            seconds = sorted(uvloop.run(_replay(url, asked, targets)))
        lines = [one for one in read_log(Path(directory) / "log.jsonl") if one.outcome]
        finishes = [
            (one.predictions[one.target].finish_s, one.outcome.finish_s)
            for one in lines
            if one.outcome
        ]
        return {
            "mean_s": sum(seconds) / len(seconds),
            "p95_s": seconds[int(len(seconds) * 0.95)],
            "cluster": sum(one.target == "cluster" for one in lines) / len(lines),
            "near": sum(abs(said - real) <= NEAR * real for said, real in finishes) / len(finishes),
        }


async def _replay(url: str, asked: Sequence[Asked], targets: Sequence[str]) -> list[float]:
    one = client(url)

    async def send(request: Asked, target: str) -> float:
        await asyncio.sleep(request.at_s)
        body = {"model": "m", "messages": [{"role": "user", "content": request.text}]}
        headers = [*HEADERS, (b"x-route-target", target.encode())] if target else HEADERS
        return await ask(one, {**body, "max_tokens": request.most}, headers)

    return list(await asyncio.gather(*map(send, asked, targets)))


if __name__ == "__main__":
    main(run)
