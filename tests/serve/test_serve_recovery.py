"""A server whose engine is killed in the middle of answers: streams pause, go on, and are complete."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.dure_server import GREEDY, WAIT_S, Home, Serving

THINGS = ("goat", "spoon", "bell", "lamp", "river", "tailor", "bridge", "school")


async def told(client: httpx.AsyncClient, thing: str, seen: Callable[[], None]) -> dict[str, Any]:
    """One streamed answer: its text, why it ended, and how many tokens it says it has."""
    body = {
        **GREEDY,
        "messages": [{"role": "user", "content": f"Tell me a story about a {thing}."}],
        "max_tokens": 120,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text, finish = "", None
    usage: dict[str, int] = {}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            assert "error" not in chunk, chunk
            for choice in chunk["choices"]:
                text += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
            usage = chunk.get("usage") or usage
            seen()
    return {"text": text, "finish": finish, "tokens": usage["completion_tokens"]}


async def eight_streams(url: str, seen: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(base_url=url, timeout=WAIT_S) as client:
        return await asyncio.gather(*(told(client, thing, seen) for thing in THINGS))


class KillsAfter:
    """Kills a process once so many chunks were seen, and once more at every one of `more`."""

    def __init__(self, victim: Callable[[], psutil.Process], *chunks: int) -> None:
        self._victim, self._chunks, self._seen = victim, set(chunks), 0
        self.killed = 0

    def __call__(self) -> None:
        self._seen += 1
        if self._seen in self._chunks:
            os.kill(self._victim().pid, signal.SIGKILL)
            self.killed += 1


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


def rank_of(server: Serving) -> psutil.Process:
    """A process of the engine that holds a shard."""
    family = server.engine().children(recursive=True)
    return next(p for p in family if "dure.engine.ranks.rank" in p.cmdline())


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_eight_streams_survive_a_killed_engine(home: Home, n_ranks: int, tmp_path: Path) -> None:
    """kill -9 in the middle of 8 streams: all end complete, and as in an undisturbed greedy run."""
    options = ["--parallel", 8, "--ctx", 512]
    if n_ranks > 1:
        options += ["--ranks", n_ranks, "--sync", "f32"]
    with home.serving(*options) as server:
        undisturbed = asyncio.run(eight_streams(server.url))
        victim = server.engine if n_ranks == 1 else lambda: rank_of(server)
        kills = KillsAfter(victim, 200)
        assert asyncio.run(eight_streams(server.url, kills)) == undisturbed
        assert kills.killed == 1
        health = httpx.get(f"{server.url}/health")
        assert health.status_code == 200
        metrics = httpx.get(f"{server.url}/metrics").text
        assert 'dure_requests_running{model="dure-demo"} 0.0' in metrics
