"""Starts upstreams and proxies in front of them, and asks them. For `route.py` and `route_trace.py`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from measure import BenchError

from dure.http.guards.asgi import Headers
from dure.route.client import HttpClient

HOST = "127.0.0.1"
PATH = "/v1/chat/completions"
KEY = "sk-" + 8 * "0a1b2c3d"  # LiteLLM refuses to start without one, and with a short one
HEADERS: Headers = [
    (b"content-type", b"application/json"),
    (b"authorization", f"Bearer {KEY}".encode()),
]
_WAIT_S = 120.0
_END_S = 5.0


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


@contextmanager
def upstream(speeds: str = "") -> Iterator[str]:
    """Run an upstream that computes nothing, and yield its URL. speeds: as it takes them."""
    port = free_port()
    program = str(Path(__file__).with_name("route_upstream.py"))
    with _running([sys.executable, program, str(port), *([speeds] if speeds else [])], port):
        yield f"http://{HOST}:{port}"


@contextmanager
def model_server(
    model: Path, options: Sequence[str], llama: Path | None = None, core: int | None = None
) -> Iterator[str]:
    """Run `dure serve`, or the llama-server at a path, and yield its URL once it is ready.

    core: the only one that it may use.
    """
    port = free_port()
    dure = [str(Path(sys.executable).with_name("dure")), "serve", str(model)]
    command = [str(llama), "--model", str(model), "--metrics"] if llama else dure
    command = [*(() if core is None else ("taskset", "--cpu-list", str(core))), *command]
    with _running([*command, "--host", HOST, "--port", str(port), *options], port):
        give_up = time.monotonic() + _WAIT_S
        while not _is_healthy(port):
            if time.monotonic() > give_up:
                raise BenchError(f"{command} is not ready: run it by hand")
            time.sleep(0.2)
        yield f"http://{HOST}:{port}"


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def router(directory: Path, upstreams: Mapping[str, str]) -> Iterator[str]:
    """Run `dure route serve` before the upstreams, by name, and yield its URL."""
    rules = directory / "rules.toml"
    tables = [
        f'[route.upstreams.{name}]\nurl = "{url}"\nmax-waiting = 10000\n'
        for name, url in upstreams.items()
    ]
    rules.write_text("\n".join(["[route]\nlongest-wait-s = 10000\n", *tables]))
    port = free_port()
    program = str(Path(sys.executable).with_name("dure"))
    command = [program, "route", "serve", "--rules", str(rules), "--port", str(port)]
    command += ["--api-key", KEY, "--log-file", str(directory / "access.log")]
    with _running(command, port, DURE_ROUTE=str(directory)):
        yield f"http://{HOST}:{port}"


@contextmanager
def litellm(program: Path, directory: Path, url: str) -> Iterator[str]:
    """Run LiteLLM's proxy before one upstream, and yield its URL."""
    config = directory / "litellm.yaml"
    parameters = {"model": "openai/m", "api_base": f"{url}/v1", "api_key": "none"}
    config.write_text(
        json.dumps({"model_list": [{"model_name": "m", "litellm_params": parameters}]})
    )
    port = free_port()
    command = [str(program), "--config", str(config), "--host", HOST, "--port", str(port)]
    with _running(command, port, LITELLM_LOG="ERROR", LITELLM_MASTER_KEY=KEY):
        yield f"http://{HOST}:{port}"


@contextmanager
def _running(command: Sequence[str], port: int, **environment: str) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait(process, port)
        yield
    finally:
        process.terminate()  # so that a router writes the rest of its log
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    give_up = time.monotonic() + _WAIT_S
    while time.monotonic() < give_up and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.1)
    raise BenchError(f"{process.args!r} does not listen at port {port}: run it by hand")


def client(url: str) -> HttpClient:
    """Return a client that costs little beside what it asks."""
    return HttpClient(url, ca_file=None, connect_s=10, silence_s=120)


async def ask(
    one: HttpClient, body: Mapping[str, object], headers: Headers = HEADERS, path: str = PATH
) -> float:
    """Ask for an answer and return its seconds. Raises BenchError if it is no answer."""
    start = time.perf_counter()
    answer = await one.send("POST", path, headers, json.dumps(body).encode())
    text = await answer.body()
    if answer.status != 200:
        raise BenchError(f"the server answered {answer.status}: {text[:300]!r}")
    return time.perf_counter() - start
