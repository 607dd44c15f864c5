"""dure in an emulated arm64 root, seen from this machine: what it writes there is what it writes here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cluster_hosts import Machine, joined, machines

from tests.arm64.board import BOARDS
from tests.arm64.debian import inside

NAME = os.environ.get("DURE_ARM64_BOARD")
BOARD = BOARDS[NAME or "pi5"]
DURE = ("-m", "dure.cli.main")
DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
STORY = "Tell me a story about a goat."
GREEDY = ("--temp", "0", "--sync", "f32", "--threads", "1")
N_TOKENS = 60
WAIT_S = 500.0  # detects a hang: emulated on a busy machine, the demo takes three minutes

pytestmark = pytest.mark.skipif(NAME is None, reason="no arm64 root: `make test-arm64` makes one")


def on_board(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the board's Python to its end."""
    return subprocess.run(
        inside(BOARD, ["python", *map(str, arguments)]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture(scope="module")
def here() -> str:
    """The demo model's answer on one rank of this machine."""
    done = subprocess.run(
        [sys.executable, *DURE, "run", DEMO, STORY, *GREEDY, "-n", str(N_TOKENS)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    return done.stdout.strip()


def test_the_board_is_what_it_says(tmp_path: Path) -> None:
    """llama.cpp starts on the emulated processor and needs nothing that this one lacks."""
    code = (
        "from dure.engine.compute.build import problem_of_build as problem\n"
        "from dure.hardware.probe import platform\n"
        "import json, dataclasses\n"
        "print(json.dumps(dataclasses.asdict(platform({}, problem))))"
    )
    done = on_board("-c", code)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["problem"] == ""
    assert (told["architecture"], "asimd" in told["features"]) == ("aarch64", True)
    assert ("asimddp" in told["features"]) == ("dotprod" in BOARD.arch)


def test_the_demo_writes_the_text_of_this_machine(here: str, tmp_path: Path) -> None:
    """On one rank and on two, by `examples/demo.py`, which compares these with each other."""
    done = on_board("examples/demo.py", DURE_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(here) == 2, done.stdout
    assert "Both wrote the same text" in done.stdout


def test_ranks_do_without_copies_where_the_kernel_has_none(tmp_path: Path) -> None:
    """QEMU has no process_vm_readv, which ends MPI's ranks; dure finds that out, and says so."""
    options = (*GREEDY, "--ranks", 2, "--verbose", "-n", 4)
    done = on_board(*DURE, "run", DEMO, STORY, *options, DURE_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "no copies between processes here" in done.stderr


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Yield the URL of a server on the board, which must end cleanly with the block."""
    options = ("--port", "0", *GREEDY, "--ranks", "2")
    environment = {**os.environ, "DURE_RUNTIME": str(directory), "DURE_CACHE": str(directory)}
    log = directory / "stderr"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            inside(BOARD, ["python", *DURE, "serve", DEMO, *options]),
            stderr=errors,
            env=environment,
        )
    try:
        end = time.monotonic() + WAIT_S
        while "ready" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield next(word for word in log.read_text().split() if word.startswith("http"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def chat(url: str) -> dict[str, Any]:
    """Ask for the story; return the answer."""
    body = {
        "messages": [{"role": "user", "content": STORY}],
        "temperature": 0,
        "max_tokens": N_TOKENS,
    }
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=WAIT_S)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_server_on_the_board_answers_a_chat(here: str, tmp_path: Path) -> None:
    with served(tmp_path) as url:
        answer = chat(url)
    assert answer["choices"][0]["message"]["content"].strip() == here


def platform_of_node(root: Machine) -> dict[str, Any]:
    """Return what the only node says of itself, which emulated takes it longer than is waited for."""
    end = time.monotonic() + WAIT_S
    while True:
        (node,) = json.loads(root.dure("cluster", "status", "--json"))["nodes"]
        if node["platform"]:
            found: dict[str, Any] = node["platform"]
            return found
        assert time.monotonic() < end, node["problem"]


@pytest.mark.timeout(4 * WAIT_S)
def test_a_cluster_of_this_machine_and_the_board_writes_the_same_text(
    here: str, tmp_path: Path
) -> None:
    """The board joins and gets its shard; both compute half, each with kernels of its own.

    The shares are given, since emulated speed means nothing.
    """
    with machines(tmp_path, 2) as (root, node):
        root.wait_s = node.wait_s = WAIT_S
        node.program = inside(BOARD, ["python", *DURE])
        joined(root, node)
        assert platform_of_node(root)["architecture"] == "aarch64"
        options = ("--cluster", "--nodes", "all", "--shares", "1,1", *GREEDY, "-n", N_TOKENS)
        assert root.dure("run", DEMO, STORY, *options).strip() == here
        shards = list(node.home.rglob("*.gguf"))
        assert len(shards) == 1
        assert 0 < shards[0].stat().st_size < DEMO.stat().st_size
