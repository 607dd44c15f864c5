"""How good a router's predictions are before real servers: `dure serve` twice, and llama-server if given.

A board (one thread) and a cluster (two ranks of a larger model, or --cluster-model) answer a mixed trace of
chats and documents. After a warm-up, finish times are compared with what was predicted when the request
came: within 20 % for 80 % of requests is the aim. The servers share one machine here and slow each other
down, which no predictor can know of boards that have machines of their own: these are the harder case.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path

import uvloop
from measure import main, parser, positive
from route_requests import Asked, trace
from route_servers import ask, client, model_server, router

from dure.route.decision_log import RoutedLine, read_log

NEAR = 0.2
PATH = "/v1/completions"  # so that a model needs no chat template


def run() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = parser(__doc__, rounds=1)
    add = options.add_argument
    add("--board", type=Path, required=True, help="GGUF file of the board's model")
    add("--cluster", type=Path, required=True, help="GGUF file of the cluster's model")
    add("--ranks", type=positive, default=2, help="of the cluster (%(default)s)")
    add("--parallel", type=positive, default=4, help="answers at once of each (%(default)s)")
    add(
        "--llama-server",
        type=Path,
        help="program that serves the board's model as a third upstream",
    )
    add("--requests", type=positive, default=60, help="of the trace (%(default)s)")
    add("--warm-up", type=positive, default=15, help="requests that do not count (%(default)s)")
    add("--per-s", type=float, default=0.5, help="requests a second, on average (%(default)s)")
    add("--words", type=positive, nargs=2, default=(300, 900), help="of a document, from and to")
    add("--keep", type=Path, help="directory for the router's log")
    arguments = options.parse_args()
    lines = _lines(arguments)
    return _report(lines[arguments.warm_up :])


def _lines(arguments: argparse.Namespace) -> list[RoutedLine]:
    asked = trace(
        arguments.requests + arguments.warm_up,
        arguments.per_s,
        tuple(arguments.words),
        (16, 32, 64, 96),
    )
    with ExitStack() as stack:
        directory = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.mkdir(exist_ok=True)
        more = ["--parallel", str(arguments.parallel)]
        board, cluster = arguments.board, arguments.cluster
        start = stack.enter_context
        urls = {
            "board": start(model_server(board, [*more, "--threads", "1"], core=0)),
            "cluster": start(
                model_server(
                    cluster, [*more, "--threads", "1", "--ranks", str(arguments.ranks)], core=1
                )
            ),
        }
        if arguments.llama_server:
            command = ["--threads", "1", "--ctx-size", str(4096 * arguments.parallel), *more]
            urls["llama-server"] = start(model_server(board, command, arguments.llama_server))
        with router(directory, urls) as url:
            uvloop.run(_replay(url, asked))
        return [one for one in read_log(directory / "log.jsonl") if one.outcome]


async def _replay(url: str, asked: list[Asked]) -> None:
    one = client(url)

    async def send(request: Asked) -> float:
        await asyncio.sleep(request.at_s)
        body = {"prompt": request.text, "max_tokens": request.most, "stream": True}
        return await ask(one, {**body, "stream_options": {"include_usage": True}}, path=PATH)

    await asyncio.gather(*map(send, asked))


def _report(lines: list[RoutedLine]) -> int:
    errors: dict[str, list[float]] = {}
    for line in lines:
        assert line.outcome
        predicted = line.predictions[line.target].finish_s
        errors.setdefault(line.target, []).append(predicted / line.outcome.finish_s - 1)
    everything = [one for found in errors.values() for one in found]
    for name, found in {**errors, "all": everything}.items():
        near = sum(abs(one) <= NEAR for one in found) / len(found)
        ranked = sorted(found)
        at = [f"{ranked[int(len(found) * part)]:+.0%}" for part in (0.1, 0.5, 0.9)]
        print(f"{name:14} {len(found):4} answers  within 20 %: {near:4.0%}  errors {', '.join(at)}")
    return 0 if sum(abs(one) <= NEAR for one in everything) >= 0.8 * len(everything) else 1


if __name__ == "__main__":
    main(run)
