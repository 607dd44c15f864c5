"""A real server under abuse: nothing leaks, nobody else notices, and the next answer is right."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from tests.support.guarded_server import WAIT_S, wait_for

MODEL = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
T = TypeVar("T")

KEY = "sk-abuse-0123456789"
AUTH = {"authorization": f"Bearer {KEY}"}
CHAT = "/v1/chat/completions"
QUESTION = {
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "temperature": 0,
    "max_tokens": 24,
}


@dataclass
class Abused:
    """`dure serve` as a process. answer: what it says to QUESTION when nobody disturbs it."""

    url: str
    process: psutil.Process
    log: Path
    answer: str = ""

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 0

    def ask(self, **changes: Any) -> httpx.Response:
        """QUESTION, asked as a well-behaved client does."""
        body = {**QUESTION, **changes}
        return httpx.post(self.url + CHAT, json=body, headers=AUTH, timeout=WAIT_S)

    def figure(self, name: str) -> float:
        """A figure of the metrics page that has no other labels than the model's."""
        page = httpx.get(f"{self.url}/metrics", headers=AUTH, timeout=WAIT_S).text
        (value,) = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE)
        return float(value)

    def is_idle(self) -> bool:
        """Whether the engine neither works nor is waited for."""
        running = self.figure("dure_requests_running")
        return running == self.figure("dure_requests_waiting") == 0

    def memory_bytes(self) -> int:
        """What the server and its engine hold together."""
        processes = (self.process, *self.process.children(recursive=True))
        return sum(int(process.memory_info().rss) for process in processes)


@contextmanager
def server(directory: Path, *options: str) -> Iterator[Abused]:
    """A server of the demo model that is ready; killed where it has not ended by itself."""
    stderr = directory / "stderr"
    arguments = (
        "serve",
        MODEL,
        "--threads",
        "1",
        "--port",
        "0",
        "--log-file",
        directory / "log",
        *options,
    )
    with (
        stderr.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "dure.cli.main", *map(str, arguments)],
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("DURE_")},
                "DURE_API_KEYS": f"tester:{KEY}",
                "DURE_RUNTIME": str(directory / "run"),
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
            stderr=errors,
        ) as process,
    ):
        try:
            wait_for(lambda: "ready" in stderr.read_text() or process.poll() is not None)
            found = re.search(r"https?://\S+", stderr.read_text())
            assert found, stderr.read_text()
            yield Abused(found[0], psutil.Process(process.pid), directory / "log")
        finally:
            for child in _children(process.pid):
                child.kill()
            process.kill()


def _children(pid: int) -> list[psutil.Process]:
    children: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        children += psutil.Process(pid).children(recursive=True)
    return children


@pytest.fixture(scope="module")
def abused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Abused]:
    options = ("--parallel", "4", "--queue", "8", "--max-body", "1", "--slow-client", "2")
    with server(tmp_path_factory.mktemp("abused"), *options) as running:
        running.answer = content(running.ask())
        yield running


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test of the shared server: no sequence works on, and the next answer is right."""
    yield
    if "abused" in request.fixturenames:
        running: Abused = request.getfixturevalue("abused")
        wait_for(running.is_idle)
        assert content(running.ask()) == running.answer


def content(response: httpx.Response) -> str:
    """The text of a chat's answer."""
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def head(length: int | str) -> bytes:
    """The head of a request with a good key."""
    fields = f"host: localhost\r\nauthorization: Bearer {KEY}\r\ncontent-length: {length}\r\n"
    return f"POST {CHAT} HTTP/1.1\r\n{fields}\r\n".encode()


def stream_request(**changes: Any) -> bytes:
    """A whole request for a stream."""
    body = json.dumps({**QUESTION, "stream": True, **changes}).encode()
    return head(len(body)) + body


@asynccontextmanager
async def connected(
    running: Abused,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client's bare connection; reset at the end, as by a client that is killed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def at_once(work: Callable[[int], Coroutine[Any, Any, T]], n: int, most: int) -> list[T]:
    """The results of work(0) to work(n - 1), `most` of them at a time."""
    places = asyncio.Semaphore(most)

    async def one(i: int) -> T:
        async with places:
            return await work(i)

    return await asyncio.gather(*(one(i) for i in range(n)))


# Malformed bodies

_STRANGE: tuple[Any, ...] = (None, True, -1, 1e308, "", "x" * 999, [], [[]], {}, {"a": 1}, "\ud800")
_PATHS = (CHAT, "/v1/completions", "/v1/embeddings", "/tokenize", "/v1/messages", "/api/chat")


def malformed(dice: random.Random) -> bytes:
    """A body that is nearly right: cut off, with a byte changed, or with a value of another kind."""
    good = {**QUESTION, "max_tokens": 1, "prompt": "x", "input": "x", "model": "m", "stop": ["a"]}
    name = dice.choice(list(good))
    kind = dice.randrange(4)
    if kind == 0:
        return b"[" * dice.randrange(1, 5000)
    if kind == 1:
        good[name] = dice.choice(_STRANGE)
        return json.dumps(good).encode()
    data = bytearray(json.dumps(good).encode())
    if kind == 2:
        return bytes(data[: dice.randrange(len(data))])
    data[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(data)


async def send_malformed(running: Abused, n: int, seed: int) -> list[int]:
    """The statuses that n malformed bodies are answered with."""
    dice = random.Random(seed)
    bodies = [(dice.choice(_PATHS), malformed(dice)) for _ in range(n)]
    async with httpx.AsyncClient(headers=AUTH, base_url=running.url, timeout=WAIT_S) as client:

        async def one(i: int) -> int:
            path, body = bodies[i]
            return (await client.post(path, content=body)).status_code

        return await at_once(one, n, 8)


def test_a_thousand_malformed_bodies_are_the_callers_fault(abused: Abused) -> None:
    """Each is answered, none with a 5xx."""
    statuses = asyncio.run(send_malformed(abused, 1000, 1))
    assert len(statuses) == 1000
    assert set(statuses) <= {200, 400, 404, 429}
    assert statuses.count(400) > 500


# Clients that hang up


async def hang_up(running: Abused, n: int, seed: int) -> None:
    """n clients leave: in the middle of their request, while they wait, or in the middle of a stream."""
    dice = random.Random(seed)
    plans = [(dice.random(), dice.random() * 0.3, dice.randrange(4)) for _ in range(n)]

    async def one(i: int) -> None:
        part, seconds, kind = plans[i]
        request = stream_request(max_tokens=500, stream=kind > 0)
        async with connected(running) as (reader, writer):
            writer.write(request if kind else request[: int(len(request) * part)])
            await asyncio.sleep(seconds)
            if kind == 3:
                with suppress(OSError):
                    await reader.read(1000)

    await at_once(one, n, 20)


def test_200_clients_that_hang_up_leave_nothing_behind(abused: Abused) -> None:
    """The engine works for none of them any more, far sooner than their answers would have ended."""
    before = abused.figure("dure_http_hung_up_total")
    asyncio.run(hang_up(abused, 200, 2))
    wait_for(abused.is_idle)
    assert abused.figure("dure_http_hung_up_total") > before


# Slow clients


def test_readers_that_do_not_read_stop_nobody(abused: Abused) -> None:
    """Others are answered beside them."""
    slow = []
    for _ in range(3):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        sock.connect(("127.0.0.1", abused.port))
        sock.sendall(stream_request(max_tokens=60))
        slow.append(sock)
    assert content(abused.ask()) == abused.answer
    wait_for(abused.is_idle)
    for sock in slow:
        sock.close()


def test_writers_that_drip_stop_nobody(abused: Abused) -> None:
    """A hundred requests that are never whole cost the others nothing."""
    slow = []
    for i in range(100):
        slow.append(socket.create_connection(("127.0.0.1", abused.port)))
        request = stream_request()
        slow[-1].sendall(request[: len(request) * i // 100])
    assert content(abused.ask()) == abused.answer
    for sock in slow:
        sock.close()


# Too much


def test_oversized_bodies_are_413(abused: Abused) -> None:
    """Stated or chunked, as JSON that would otherwise be right."""
    text = json.dumps({**QUESTION, "user": "x" * 3_000_000}).encode()

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(text), 50_000):
            yield text[start : start + 50_000]

    for body in (text, chunks()):
        answer = httpx.post(abused.url + CHAT, content=body, headers=AUTH, timeout=WAIT_S)
        assert answer.status_code == 413
    with socket.create_connection(("127.0.0.1", abused.port)) as sock:
        sock.sendall(head(10**15))
        assert sock.recv(100).startswith(b"HTTP/1.1 413")


def test_wrong_keys_are_401_however_many(abused: Abused) -> None:
    """And never reach the engine."""
    before = abused.figure("dure_generated_tokens_total")

    async def send() -> list[int]:
        async with httpx.AsyncClient(base_url=abused.url, timeout=WAIT_S) as client:

            async def one(i: int) -> int:
                headers = {"authorization": f"Bearer {KEY}{i}"}
                return (await client.post(CHAT, json=QUESTION, headers=headers)).status_code

            return await at_once(one, 200, 20)

    assert set(asyncio.run(send())) == {401}
    assert abused.figure("dure_generated_tokens_total") == before


def test_a_full_queue_is_429_with_retry_after(abused: Abused) -> None:
    """4 answers at once and 8 that wait: of 30 requests at once some are sent away, the rest are right."""

    async def send() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(headers=AUTH, limits=limits, timeout=WAIT_S) as client:

            async def one(_: int) -> httpx.Response:
                return await client.post(abused.url + CHAT, json=QUESTION)

            return await at_once(one, 30, 30)

    answers = asyncio.run(send())
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all(content(a) == abused.answer for a in answers if a.status_code == 200)
    assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status_code == 429)


def test_the_log_has_figures_and_no_contents(abused: Abused, tmp_path: Path) -> None:
    """Of a stream too: tokens, time to the first, how it ended; neither question, answer nor key."""
    abused.ask(stream=True, messages=[{"role": "user", "content": "Tell me about xyzzy."}])
    wait_for(lambda: "completion_tokens=24" in abused.log.read_text())
    text = abused.log.read_text()
    last = next(line for line in reversed(text.splitlines()) if "completion_tokens=24" in line)
    for field in ("key=tester", "status=200", "prompt_tokens=", "ttft_s=", "finish_reason=length"):
        assert field.removeprefix("status=") in last
    assert "xyzzy" not in text
    assert KEY not in text


# Memory


def test_memory_is_back_within_5_percent(abused: Abused) -> None:
    """Of two equal rounds of abuse the second takes no more."""

    def abuse(seed: int) -> int:
        asyncio.run(send_malformed(abused, 300, seed))
        asyncio.run(hang_up(abused, 60, seed))
        wait_for(abused.is_idle)
        return abused.memory_bytes()

    first = abuse(3)
    assert abuse(4) <= 1.05 * first


# The end


def test_a_server_that_is_stopped_under_load_ends_every_stream(tmp_path: Path) -> None:
    """SIGTERM during 8 streams: each ends whole or with an error, the exit code is 0, nothing is left."""
    with server(tmp_path, "--parallel", "4", "--deadline", "1") as running:
        children = running.process.children(recursive=True)
        assert children

        async def load() -> list[list[str]]:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(headers=AUTH, limits=limits, timeout=WAIT_S) as client:
                begun = asyncio.Event()

                async def one(i: int) -> list[str]:
                    body = {**QUESTION, "stream": True, "max_tokens": 5 if i % 2 else 2000}
                    body["ignore_eos"] = True
                    async with client.stream("POST", running.url + CHAT, json=body) as answer:
                        lines = []
                        async for line in answer.aiter_lines():
                            begun.set()
                            lines.append(line)
                        return [line.removeprefix("data: ") for line in lines if line]

                async def stop() -> None:
                    await begun.wait()
                    running.process.send_signal(signal.SIGTERM)

                stopping = asyncio.create_task(stop())
                streams = await asyncio.gather(*(one(i) for i in range(8)))
                await stopping
                return streams

        for events in asyncio.run(load()):
            assert events[-1] == "[DONE]" or "error" in json.loads(events[-1])
        assert running.process.wait(WAIT_S) == 0
        assert psutil.wait_procs(children, WAIT_S)[1] == []
        assert list((tmp_path / "run").iterdir()) == []
