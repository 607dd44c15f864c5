"""Shards to nodes: cut on the root as a stream, sent in chunks to several nodes at once.

Nothing is written on the root's disk. A node says which chunks it has, by their SHA-256; these are not sent
again, so a cut line costs what was on it. Refuses to know which node gets which share.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dure.cluster.node.shards import CHUNK_BYTES, root_digest
from dure.cluster.trust.https import Line, UnreachableError
from dure.errors import ClusterError
from dure.model.gguf import GgufFile
from dure.model.shard import Shard, stream_shards

__all__ = ["Delivery", "deliver", "room_for", "whole_shards"]

T = TypeVar("T")
AHEAD = 4  # chunks that wait for a node while others go on
PAUSE_S = 0.5  # between tries on a broken line


@dataclass
class Delivery:
    """A shard for the node at the other end of a line, and how far it is.

    sent_bytes: over the line; done_bytes: with those that the node had already.
    """

    shard: Shard
    line: Line
    sent_bytes: int = 0
    done_bytes: int = 0


def whole_shards(line: Line) -> set[str]:
    """The names of the shards that a node has whole."""
    return {held["name"] for held in line.ask("GET", "/shards")["shards"] if held["whole"]}


def room_for(shard: Shard, line: Line) -> int:
    """How many bytes of a shard a node has or could take."""
    told = line.ask("GET", "/shards")
    held = sum(one["size_bytes"] for one in told["shards"] if one["name"] == shard.name)
    return int(held + told["free_bytes"])


def deliver(
    model: GgufFile,
    deliveries: Sequence[Delivery],
    *,
    patience_s: float = 60.0,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Cut a model into the shards of these deliveries, and send each to its node.

    patience_s: how long a line may stay broken. progress: is called when a delivery has come further.
    Raises ClusterError that names the node which refuses, or whose line stays broken.
    """
    if not deliveries:
        return
    with contextlib.ExitStack() as stack:
        sinks = [_NodeSink(delivery, patience_s, progress) for delivery in deliveries]
        for sink in sinks:
            stack.callback(sink.drop)
        stream_shards(model, [(d.shard, sink) for d, sink in zip(deliveries, sinks, strict=True)])


class _NodeSink:
    """A node's disk at the other end of a line. A thread sends, so that a slow node holds up no cutting."""

    def __init__(self, delivery: Delivery, patience_s: float, progress: Callable[[], None]) -> None:
        self._delivery, self._patience_s, self._progress = delivery, patience_s, progress
        self._buffer = bytearray()
        self._index = 0
        self._known: list[bytes] = []  # digests of the chunks that the node has
        self._digests: list[bytes] = []
        self._chunks: queue.Queue[tuple[int, bytes] | None] = queue.Queue(AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._send_all, daemon=True)

    # ------------------------------------------------------------ a Sink

    def open(self, size_bytes: int) -> None:
        """Have the node make room; what it has already is not sent again."""
        told = self._patiently(lambda: self._ask("POST", "", {"size_bytes": size_bytes}))
        self._known = list(_digests_in(bytes.fromhex(told["chunks"])))
        self._thread.start()

    def write(self, data: memoryview) -> None:
        """Send these when a chunk is full."""
        self._buffer += data
        while len(self._buffer) >= CHUNK_BYTES:
            self._queue(bytes(self._buffer[:CHUNK_BYTES]))
            del self._buffer[:CHUNK_BYTES]

    def finish(self) -> None:
        """Send what is left, and have the node look whether it has all."""
        if self._buffer:
            self._queue(bytes(self._buffer))
            self._buffer.clear()
        self._chunks.put(None)
        self._thread.join()
        self._check()
        digest = root_digest(b"".join(self._digests))
        self._patiently(lambda: self._ask("POST", "/finish", {"digest": digest}))

    def drop(self) -> None:
        """Send no more; what the node has it keeps, for the next try."""
        if self._thread.is_alive():
            self._error = self._error or ClusterError("the delivery was given up")
            with contextlib.suppress(queue.Full):
                self._chunks.put_nowait(None)
            self._thread.join(1.0)

    # ------------------------------------------------------------ the thread

    def _queue(self, chunk: bytes) -> None:
        while True:
            self._check()
            with contextlib.suppress(queue.Full):
                self._chunks.put((self._index, chunk), timeout=0.2)
                break
        self._index += 1

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _send_all(self) -> None:
        try:
            while self._error is None and (item := self._chunks.get()) is not None:
                self._send(*item)
        except BaseException as error:  # raised where the next chunk is written
            self._error = error

    def _send(self, index: int, chunk: bytes) -> None:
        digest = hashlib.sha256(chunk).digest()
        self._digests.append(digest)
        if self._known[index : index + 1] != [digest]:
            self._patiently(
                lambda: self._ask("PUT", f"/chunks/{index}", chunk, **{"x-sha256": digest.hex()})
            )
            self._delivery.sent_bytes += len(chunk)
        self._delivery.done_bytes += len(chunk)
        self._progress()

    def _ask(self, method: str, path: str, body: Any, **headers: str) -> Any:
        return self._delivery.line.ask(
            method, f"/shards/{self._delivery.shard.name}{path}", body, **headers
        )

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask again while the line is broken, but not for ever. A chunk that comes twice is harmless."""
        give_up = time.monotonic() + self._patience_s
        while True:
            try:
                return ask()
            except UnreachableError:
                if time.monotonic() > give_up or self._error is not None:
                    raise
                time.sleep(PAUSE_S)


def _digests_in(chunks: bytes) -> Iterator[bytes]:
    return (chunks[at : at + 32] for at in range(0, len(chunks), 32))
