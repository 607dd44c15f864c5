"""The programs that are compared: how each is found, run once and read.

Knows the command lines and the output of `dure bench`, `llama-bench` and `dllama`.
Refuses to know how often they run and what their numbers are compared with.

The peers are found by environment variables: nothing is downloaded or built here.
Every measuring function returns tokens/s as `{"prompt": ..., "generation": ...}`; those that tell
where the time of a generated token goes add `compute_ms` and `sync_ms`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hosts import Host, cpu_of, rank_prefix
from measure import BenchError, progress

PARTS = ("prompt", "generation")
SPLIT = ("compute", "sync")
LLAMA, IK = "llama.cpp", "ik_llama.cpp"
TIMEOUT_S = 1800.0
DLLAMA_PORT = 9990
RPC_PORT = 9992


@dataclass(frozen=True, slots=True)
class Load:
    """What every contender is given: tokens of the prompt and tokens to generate."""

    prompt_tokens: int
    generation_tokens: int
    depth: int = 0  # tokens that are in the context before
    repeats: int = 5  # medians of these are taken; where a program can repeat


def llama_bench_program() -> str:
    """The path of llama-bench, from DURE_LLAMA_BENCH. Raises BenchError."""
    return _peer("DURE_LLAMA_BENCH", "llama.cpp's llama-bench")


def ik_bench_program() -> str | None:
    """The path of ik_llama.cpp's llama-bench, from DURE_IK_BENCH; None without it. Raises BenchError."""
    if not os.environ.get("DURE_IK_BENCH"):
        return None
    return _peer("DURE_IK_BENCH", "ik_llama.cpp's llama-bench")


def llama_server_program() -> str:
    """The path of llama-server, from DURE_LLAMA_SERVER. Raises BenchError."""
    return _peer("DURE_LLAMA_SERVER", "llama.cpp's llama-server")


def rpc_server_program() -> str:
    """The path of llama.cpp's RPC server, from DURE_RPC_SERVER. Raises BenchError."""
    return _peer("DURE_RPC_SERVER", "llama.cpp's ggml-rpc-server")


def dllama_program() -> str:
    """The path of dllama, from DURE_DLLAMA. Raises BenchError."""
    return _peer("DURE_DLLAMA", "Distributed Llama's dllama")


def installed_program(name: str) -> str:
    """A program of this Python's environment, or else of PATH. Raises BenchError."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        raise BenchError(f"`{name}` not found: install dure into this Python's environment")
    return found


def output(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What a program prints to stdout. Raises BenchError with its last words when it fails."""
    try:
        done = subprocess.run(
            argv, env={**os.environ, **(environment or {})}, check=False, timeout=TIMEOUT_S,
            capture_output=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BenchError(f"`{shlex.join(argv)}` ran longer than {TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise BenchError(
            f"`{shlex.join(argv)}` ended with status {done.returncode}: " + "\n  ".join(lines[-8:])
        )
    return done.stdout


def mpi_environment(device: str) -> dict[str, str]:
    """Variables that make MPI's ranks talk over the network device `device` only.

    Without them MPICH and UCX would use shared memory between hosts that share a kernel.
    """
    return {"UCX_TLS": "tcp,self", "MPIR_CVAR_NOLOCAL": "1", "UCX_NET_DEVICES": device}


def dure(
    model: Path, ranks: int, threads: int | None, load: Load, *,
    prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None, program: str | None = None,
) -> dict[str, float]:  # fmt: skip
    """Run `dure bench` on `ranks` ranks of `threads` threads, None as it chooses; medians of its own runs.

    program: the `dure` of another build.
    """
    argv = [*prefix, *_dure_bench(model, ranks, threads, load)]
    if program:
        argv[len(prefix)] = program
    return _read_dure(_json(argv, environment))


def dure_on_hosts(
    hosts: Sequence[Host], model: Path, load: Load, program: str | None = None
) -> dict[str, float]:
    """Run `dure bench` with rank i on host i and, if there is one, CPU i; one thread each."""
    return dure(model, len(hosts), 1, load, environment=on_hosts(hosts), program=program)


def dure_and_floor_on_hosts(
    hosts: Sequence[Host], model: Path, load: Load
) -> tuple[dict[str, float], dict[str, float]]:
    """The same, and beside it what memory and link would have allowed at best in that minute."""
    with tempfile.TemporaryDirectory() as folder:
        trace = ["--trace", f"{folder}/trace.json"]
        argv = [*_dure_bench(model, len(hosts), 1, load), *trace]
        answer = _json(argv, on_hosts(hosts))
    try:
        floor = {f"{part}_ms": float(ms) for part, ms in answer["trace"]["floor_ms"].items()}
        return _read_dure(answer), {"generation": 1e3 / sum(floor.values()), **floor}
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BenchError(f"`dure bench --trace --json` printed something else: {answer}") from error


def _dure_bench(model: Path, ranks: int, threads: int | None, load: Load) -> list[str]:
    return [
        installed_program("dure"), "bench", str(model), "--ranks", str(ranks),
        *(["--threads", str(threads)] if threads else []),
        "-p", str(max(1, load.prompt_tokens)), "-n", str(load.generation_tokens), "-d", str(load.depth),
        "--repeat", str(load.repeats), "--json",
    ]  # fmt: skip


def _read_dure(answer: Any) -> dict[str, float]:
    try:
        (row,) = answer["rows"]
        rates = {part: float(row[part]["tokens_per_s"]["median"]) for part in PARTS}
        return rates | {f"{name}_ms": float(row["per_token_ms"][name]) for name in SPLIT}
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"`dure bench --json` printed something else: {answer}") from error


def on_hosts(hosts: Sequence[Host]) -> dict[str, str]:
    """Return the environment in which rank i of a job runs on host i."""
    wrapper = shlex.join(rank_prefix(len(hosts)))
    return {**mpi_environment(hosts[0].device), "DURE_RANK_WRAPPER": wrapper}


FLASH = {"llama-bench -fa 0": ("-fa", "0"), "llama-bench -fa 1": ("-fa", "1")}
"""llama-bench without and with flash attention: which is faster depends on model and depth."""

IK_FLAGS = {
    f"ik_llama.cpp -rtr {repack} -fa {flash}": ("-rtr", repack, "-fa", flash, "-fmoe", "1")
    for repack in "10"
    for flash in "10"
}
"""ik_llama.cpp's llama-bench: weights repacked at loading or as they are, and flash attention."""


def llama_bench(
    model: Path, threads: int, load: Load, *,
    prefix: Sequence[str] = (), more: Sequence[str] = (),
) -> dict[str, float]:  # fmt: skip
    """Run llama-bench; medians of its own repetitions. 0 tokens are not measured."""
    argv = [
        *prefix, llama_bench_program(), "-m", str(model), "-t", str(threads),
        "-p", str(load.prompt_tokens), "-n", str(load.generation_tokens), "-d", str(load.depth),
        "-r", str(load.repeats), "-o", "json", *more,
    ]  # fmt: skip
    return _read_llama_bench(argv, load)


def ik_bench(
    program: str, model: Path, threads: int, load: Load, *,
    prefix: Sequence[str] = (), more: Sequence[str] = (),
) -> dict[str, float]:  # fmt: skip
    """Run ik_llama.cpp's llama-bench in the same way. At a depth it measures generation only."""
    n, depth = load.generation_tokens, load.depth
    generation = ["-n", "0", "-gp", f"{depth},{n}"] if depth else ["-n", str(n)]
    argv = [
        *prefix, program, "-m", str(model), "-t", str(threads), "-p", str(load.prompt_tokens),
        *generation, "-r", str(load.repeats), "-o", "json", *more,
    ]  # fmt: skip
    return _read_llama_bench(argv, load)


def _read_llama_bench(argv: Sequence[str], load: Load) -> dict[str, float]:
    tests = _json(argv, None)
    try:
        rates = {PARTS[test["n_gen"] > 0]: statistics.median(test["samples_ts"]) for test in tests}
        wanted = zip(PARTS, (load.prompt_tokens, load.generation_tokens), strict=True)
        return {part: rates[part] for part, n in wanted if n}
    except (KeyError, TypeError) as error:
        raise BenchError(f"llama-bench printed something else: {tests}") from error


Program = Callable[[int, Load], dict[str, float]]
"""Measures a model with a number of threads."""


@dataclass(frozen=True, slots=True)
class Peers:
    """What else runs a model in one process: by family, then by name, as it is called with its flags.

    left_out: the families that cannot take part, and why, as a report's settings.
    """

    families: Mapping[str, Mapping[str, Program]]
    left_out: Mapping[str, str]

    def programs(self) -> dict[str, Program]:
        """Return all programs by name."""
        return {
            name: program for family in self.families.values() for name, program in family.items()
        }


def peers_in_one_process(model: Path, prefix: Sequence[str] = ()) -> Peers:
    """Return llama.cpp and, if it is here and reads the model, ik_llama.cpp."""
    families: dict[str, dict[str, Program]] = {
        LLAMA: {
            name: partial(llama_bench, model, prefix=prefix, more=more)
            for name, more in FLASH.items()
        }
    }
    program = ik_bench_program()
    if program is None:
        return Peers(families, {IK: "not measured, DURE_IK_BENCH is not set"})
    try:
        ik_bench(program, model, 1, Load(1, 1, repeats=1), prefix=prefix)
    except BenchError as error:
        progress(f"{IK} is left out: {error}")
        return Peers(families, {IK: "cannot run this model"})
    families[IK] = {
        name: partial(ik_bench, program, model, prefix=prefix, more=more)
        for name, more in IK_FLAGS.items()
    }
    return Peers(families, {})


def llama_rpc_on_hosts(
    hosts: Sequence[Host], model: Path, split: str, load: Load
) -> dict[str, float]:
    """Run llama-bench on the first host over an RPC server on every host, one thread each.

    split: `layer` or `tensor`, see its --split-mode.
    """
    server = [rpc_server_program(), "-t", "1", "-d", "CPU", "-p", str(RPC_PORT)]
    with contextlib.ExitStack() as stack:
        for rank, host in enumerate(hosts):
            words = [*server, "-H", host.address]
            process = stack.enter_context(host.running(words, cpu_of(rank, len(hosts))))
            host.wait_for_listener(process, RPC_PORT)
        places = ",".join(f"{host.address}:{RPC_PORT}" for host in hosts)
        more = ["--rpc", places, "-ngl", "999", "-sm", split]
        return llama_bench(model, 1, load, prefix=hosts[0].command([]), more=more)


def dllama_on_hosts(
    hosts: Sequence[Host], model: Path, tokenizer: Path, load: Load
) -> dict[str, float]:
    """Run dllama's root on the first host and a worker on every other, one thread each.

    Prompt and generation are two runs, so that both begin with an empty cache, as they do in
    `dure bench`. The rates are dllama's own: its work and its exchanges, without its sampling.
    """
    prompt = _dllama_rates(hosts, model, tokenizer, Load(load.prompt_tokens, 1))
    generation = _dllama_rates(hosts, model, tokenizer, Load(1, load.generation_tokens))
    return {
        "prompt": prompt["Evaluation"],
        "generation": generation["Prediction"],
        "compute_ms": generation["compute_ms"],
        "sync_ms": generation["sync_ms"],
    }


def _dllama_rates(
    hosts: Sequence[Host], model: Path, tokenizer: Path, load: Load
) -> dict[str, float]:
    program = dllama_program()
    worker = [program, "worker", "--port", str(DLLAMA_PORT), "--nthreads", "1"]
    # The tokenizer makes one token of each letter and adds the one that begins a text; dllama
    # evaluates all but the last, and --steps counts the evaluated tokens too.
    root = [
        program, "inference", "--model", str(model), "--tokenizer", str(tokenizer),
        "--prompt", "a" * load.prompt_tokens,
        "--steps", str(load.prompt_tokens + load.generation_tokens),
        "--nthreads", "1", "--buffer-float-type", "q80", "--temperature", "0",
    ]  # fmt: skip
    if hosts[1:]:
        root += ["--workers", *(f"{host.address}:{DLLAMA_PORT}" for host in hosts[1:])]
    with contextlib.ExitStack() as stack:
        for rank, host in enumerate(hosts[1:], start=1):
            process = stack.enter_context(host.running(worker, cpu_of(rank, len(hosts))))
            host.wait_for_listener(process, DLLAMA_PORT)
        text = output(hosts[0].command(root, cpu_of(0, len(hosts))))
    return _read_dllama(text, load)


def _read_dllama(text: str, load: Load) -> dict[str, float]:
    expected = {"Evaluation": load.prompt_tokens, "Prediction": load.generation_tokens}
    rates = {}
    for section, tokens in expected.items():
        found = re.search(rf"^{section}\n(?: .*\n)*? *nTokens: {tokens}\n *tokens/s: ([\d.]+)",
                          text, re.MULTILINE)  # fmt: skip
        if found is None:
            tail = "\n  ".join(text.splitlines()[-8:])
            raise BenchError(f"dllama did not report {section} of {tokens} tokens:\n  {tail}")
        rates[section] = float(found[1])
    steps = re.findall(r"Pred *(\d+) ms Sync *(\d+) ms", text)
    compute, sync = (statistics.mean(float(step[i]) for step in steps) for i in (0, 1))
    return {**rates, "compute_ms": compute, "sync_ms": sync}


def _peer(variable: str, what: str) -> str:
    path = os.environ.get(variable)
    if not path:
        raise BenchError(f"set {variable} to the path of {what} (see bench/README.md)")
    if not (Path(path).is_file() and os.access(path, os.X_OK)):
        raise BenchError(f"{variable}={path} is not a program: set it to the path of {what}")
    return str(Path(path).resolve())


def _json(argv: Sequence[str], environment: Mapping[str, str] | None) -> Any:
    text = output(argv, environment)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BenchError(f"`{shlex.join(argv)}` did not print JSON: {text[:400]!r}") from error
