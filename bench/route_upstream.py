"""An OpenAI-compatible upstream that computes nothing: `python route_upstream.py PORT [SPEEDS]`.

Without speeds it answers at once, so that a proxy's own time is what is left. With `P,G,N` it takes a
prompt's words at P tokens a second and writes an answer at G, N answers at once, the others wait: a machine
of these speeds as a client sees it, without the machine.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop

FAST = (1e9, 1e9, 1000)


class Machine:
    """A machine's speeds, and its places for answers."""

    def __init__(self, prompt_per_s: float, answer_per_s: float, parallel: int) -> None:
        self.prompt_per_s, self.answer_per_s = prompt_per_s, answer_per_s
        self.parallel = parallel
        self._places = asyncio.Semaphore(parallel)
        self._is_fast = prompt_per_s >= FAST[0]

    async def answer(self, body: bytes) -> bytes:
        """Return an answer, in the time that it takes."""
        if self._is_fast:
            return _answer(5, 1)
        asked = json.loads(body)
        prompt = sum(len(one["content"].split()) for one in asked["messages"])
        tokens = asked["max_tokens"]
        async with self._places:
            await asyncio.sleep(prompt / self.prompt_per_s + tokens / self.answer_per_s)
        timings = {
            "prompt_n": prompt,
            "prompt_ms": prompt / self.prompt_per_s * 1e3,
            "predicted_n": tokens,
            "predicted_ms": tokens / self.answer_per_s * 1e3,
        }
        return _answer(prompt, tokens, timings=timings)


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
            answer = await machine.answer(body) if body else pages.get(path, b"{}")
            status = b"200 OK" if body or path in (*pages, "/health") else b"404 Not Found"
            writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\n")
            writer.write(b"content-length: %d\r\n\r\n" % len(answer) + answer)
    except (ConnectionError, asyncio.IncompleteReadError):
        writer.close()


async def _main(port: int, speeds: tuple[float, float, int]) -> None:
    machine = Machine(*speeds)
    server = await asyncio.start_server(lambda r, w: _handle(machine, r, w), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    given = [float(text) for text in sys.argv[2].split(",")] if len(sys.argv) > 2 else FAST
    uvloop.run(_main(int(sys.argv[1]), (given[0], given[1], int(given[2]))))
