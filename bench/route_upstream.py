"""An OpenAI-compatible upstream that computes nothing: `python route_upstream.py PORT [SPEEDS]`.

Without speeds it answers at once, so that a proxy's own time is what is left. With `P,G,N,C` it is a
machine of these speeds as a client sees it, without the machine: it reads prompts at P tokens a second and
writes an answer at G, in steps, as servers do: a step has the next token of each answer, which takes C of a
token's time more for each answer but the first, and if prompts wait, as much of these as takes that time
again. N requests have a place at once, the others wait.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import uvloop

FAST = (1e9, 1e9, 1000, 0.0)
CHUNK_S = 0.05  # of prompts in a step, at least


@dataclass
class Work:
    """A request that has a place: tokens of its prompt and of its answer that are left, and its end."""

    prompt: float
    answer: int
    begun_s: float
    read_s: float = 0.0
    ended_s: float = 0.0


class Machine:
    """A machine's speeds, and its places for answers."""

    def __init__(
        self, prompt_per_s: float, answer_per_s: float, parallel: int, crowd: float
    ) -> None:
        self.prompt_per_s, self.answer_per_s = prompt_per_s, answer_per_s
        self.parallel, self.crowd = parallel, crowd
        self._places = asyncio.Semaphore(parallel)
        self._works: list[Work] = []
        self._stepped, self._wanted = asyncio.Condition(), asyncio.Event()
        self.is_fast = prompt_per_s >= FAST[0]

    async def stream(self, body: bytes) -> AsyncIterator[bytes]:
        """Yield an answer as two events: one when the prompt is read, the other at its end."""
        asked = json.loads(body)
        prompt = sum(len(one["content"].split()) for one in asked["messages"])
        tokens, clock = asked["max_tokens"], asyncio.get_running_loop().time
        came_s = clock()
        async with self._places:
            work = Work(prompt, tokens, clock())
            self._works.append(work)
            self._wanted.set()
            async with self._stepped:
                await self._stepped.wait_for(lambda: work.read_s)
            yield b'data: {"choices":[{"delta":{"content":"o"}}]}\n\n'
            async with self._stepped:
                await self._stepped.wait_for(lambda: work.ended_s)
        timings = {
            "prompt_n": prompt,
            "prompt_ms": (work.read_s - work.begun_s) * 1e3,
            "predicted_n": tokens,
            "predicted_ms": (work.ended_s - work.read_s) * 1e3,
            "queue_ms": (work.begun_s - came_s) * 1e3,
        }
        yield b"data: " + _answer(prompt, tokens, timings=timings) + b"\n\n"

    async def run(self) -> None:
        """Compute step after step. Steps that are behind the clock do not wait for it."""
        clock = asyncio.get_running_loop().time
        now_s = clock()
        while True:
            if not self._works:
                self._wanted.clear()
                await self._wanted.wait()
                now_s = clock()
            now_s += self._step()
            await asyncio.sleep(max(0.0, now_s - clock()))
            async with self._stepped:
                self._end(now_s)
                self._stepped.notify_all()

    def _step(self) -> float:
        """Compute a step, and return its seconds."""
        answers = [one for one in self._works if one.prompt <= 0]
        prompts = [one for one in self._works if one.prompt > 0]
        step_s = (1 + self.crowd * (len(answers) - 1)) / self.answer_per_s if answers else 0.0
        for one in answers:
            one.answer -= 1
        left: float = math.ceil(max(step_s, CHUNK_S) * self.prompt_per_s)
        for one in sorted(prompts, key=lambda one: one.prompt):  # the shortest first
            done = min(left, one.prompt)
            one.prompt, left, step_s = (
                one.prompt - done,
                left - done,
                step_s + done / self.prompt_per_s,
            )
        return step_s

    def _end(self, now_s: float) -> None:
        for one in self._works:
            one.read_s = one.read_s or (now_s if one.prompt <= 0 else 0.0)
            one.ended_s = now_s if one.answer <= 0 else 0.0
        self._works = [one for one in self._works if not one.ended_s]


def _answer(prompt: int, tokens: int, **more: object) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    message = {"role": "assistant", "content": "ok"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
    return json.dumps({**whole, "choices": [choice], "usage": usage, **more}).encode()


async def _handle(
    machine: Machine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    pages = {
        "/v1/models": b'{"data":[{"id":"m"}]}',
        "/props": json.dumps({"total_slots": machine.parallel}).encode(),
    }
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower():
            _, _, rest = head.partition("content-length:")
            body = await reader.readexactly(int(rest.split("\r\n")[0] or 0)) if rest else b""
            path = head.split(" ")[1]
            if body and not machine.is_fast:
                await _send(writer, machine.stream(body))
                continue
            answer = _answer(5, 1) if body else pages.get(path, b"{}")
            status = b"200 OK" if body or path in (*pages, "/health") else b"404 Not Found"
            writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\n")
            writer.write(b"content-length: %d\r\n\r\n" % len(answer) + answer)
    except (ConnectionError, asyncio.IncompleteReadError):
        writer.close()


async def _send(writer: asyncio.StreamWriter, events: AsyncIterator[bytes]) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
    writer.write(b"transfer-encoding: chunked\r\n\r\n")
    async for event in events:
        writer.write(b"%x\r\n" % len(event) + event + b"\r\n")
    writer.write(b"0\r\n\r\n")


async def _main(port: int, speeds: tuple[float, float, int, float]) -> None:
    machine = Machine(*speeds)
    computing = asyncio.create_task(machine.run())
    server = await asyncio.start_server(lambda r, w: _handle(machine, r, w), "127.0.0.1", port)
    await asyncio.gather(server.serve_forever(), computing)


if __name__ == "__main__":
    given = [float(text) for text in sys.argv[2].split(",")] if len(sys.argv) > 2 else FAST
    uvloop.run(_main(int(sys.argv[1]), (given[0], given[1], int(given[2]), given[3])))
