"""A server of the demo model on a cluster of hosts, and a story that is asked of it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster_hosts import WAIT_S, Machine

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
PORT = 18080
STORY = "Tell me a story about a goat."
GREEDY = ("--temp", "0", "--sync", "f32", "-t", "1")
ALL = ("--cluster", "--nodes", "all")  # the demo model may be faster on one machine
ASK = """
import json, sys, urllib.request
body = {"messages": [{"role": "user", "content": sys.argv[2]}], "temperature": 0, "stream": True,
        "max_tokens": 150}
request = urllib.request.Request(sys.argv[1] + "/v1/chat/completions", json.dumps(body).encode())
for line in urllib.request.urlopen(request, timeout=120):
    if line.startswith(b"data: {"):
        choices = json.loads(line[6:])["choices"]
        text = choices[0]["delta"].get("content") if choices else None
        print(text or "", end="", flush=True)
    elif line.startswith(b"data: [DONE]"):
        print("<done>", flush=True)
"""


def told_alone() -> str:
    """Return the story as one rank tells it."""
    done = subprocess.run(
        [sys.executable, "-m", "dure.cli.main", "run", DEMO, STORY, *GREEDY, "-n", "150"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    return done.stdout.strip()


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@contextlib.contextmanager
def serving(root: Machine, *options: object) -> Iterator[None]:
    """The root serves the demo model on the cluster; no rank is left afterwards."""
    root.start("serve", DEMO, *ALL, "--port", PORT, *GREEDY, *options, says="ready")
    try:
        yield
    finally:
        root.stop()


@contextlib.contextmanager
def asking(root: Machine, port: int = PORT) -> Iterator[Callable[[], str]]:
    """A story is being told when the block begins; the function waits for its end, and gives it."""
    told = root.home / f"answer{port}"
    with told.open("wb") as file:
        url = f"http://127.0.0.1:{port}"
        process = subprocess.Popen(
            root.host.command([sys.executable, "-c", ASK, url, STORY]), stdout=file
        )

    def whole() -> str:
        assert process.wait(WAIT_S) == 0
        return told.read_text()

    try:
        wait_until(lambda: len(told.read_text()) > 20)
        yield whole
    finally:
        process.kill()
        process.wait()
