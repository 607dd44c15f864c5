"""Shards to nodes: cut on the root as a stream, sent in chunks to several nodes at once.

Nothing is written on the root's disk. A node says which chunks it has, by their SHA-256; these are not sent
again, so a broken connection costs what was on it. Refuses to know which node gets which share.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dure.cluster.node_api import CHUNK_BYTES, NodeClient, shard_digest
from dure.cluster.trust.connection import UnreachableError
from dure.errors import ClusterError
from dure.model.gguf import GgufFile
from dure.model.shard import Shard, stream_shards

__all__ = ["Delivery", "deliver"]

T = TypeVar("T")
AHEAD = 4  # chunks that wait for a node while others go on
PAUSE_S = 0.5  # between tries on a broken connection


@dataclass
class Delivery:
    """A shard for a node, and how far it is.

    sent_bytes: over the network; done_bytes: with those that the node had already.
    """

    shard: Shard
    client: NodeClient
    sent_bytes: int = 0
    done_bytes: int = 0


def deliver(
    model: GgufFile,
    deliveries: Sequence[Delivery],
    *,
    patience_s: float = 60.0,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Cut a model into the shards of these deliveries, and send each to its node.

    patience_s: how long a connection may stay broken. progress: is called when a delivery is further on.
    Raises ClusterError that names the node which refuses, or whose connection stays broken.
    """
    if not deliveries:
        return
    with contextlib.ExitStack() as stack:
        sinks = [_NodeSink(delivery, patience_s, progress) for delivery in deliveries]
        for sink in sinks:
            stack.callback(sink.drop)
        stream_shards(model, [(d.shard, sink) for d, sink in zip(deliveries, sinks, strict=True)])


class _NodeSink:
    """Write a shard to a node's disk. A thread sends, so that a slow node holds up no cutting."""

    def __init__(self, delivery: Delivery, patience_s: float, progress: Callable[[], None]) -> None:
        self._delivery, self._patience_s, self._progress = delivery, patience_s, progress
        self._client, self._name = delivery.client, delivery.shard.name
        self._buffer = bytearray()
        self._index = 0
        self._on_node: list[bytes] = []  # digests of the chunks that the node has
        self._digests: list[bytes] = []
        self._chunks: queue.Queue[tuple[int, bytes] | None] = queue.Queue(AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._send_all, daemon=True)

    # ------------------------------------------------------------ a Sink

    def open(self, size_bytes: int) -> None:
        """Have the node make room; what it has already is not sent again."""
        begun = self._patiently(lambda: self._client.begin(self._name, size_bytes))
        self._on_node = begun.digests
        self._thread.start()

    def write(self, data: memoryview) -> None:
        """Take bytes, and send each chunk that is full."""
        self._buffer += data
        while len(self._buffer) >= CHUNK_BYTES:
            self._queue(bytes(self._buffer[:CHUNK_BYTES]))
            del self._buffer[:CHUNK_BYTES]

    def finish(self) -> None:
        """Send what is left, and have the node check that it has all."""
        if self._buffer:
            self._queue(bytes(self._buffer))
            self._buffer.clear()
        self._chunks.put(None)
        self._thread.join()
        self._check()
        digest = shard_digest(b"".join(self._digests))
        self._patiently(lambda: self._client.finish(self._name, digest))

    def drop(self) -> None:
        """Stop sending; the node keeps what it has, for the next try."""
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
        if self._on_node[index : index + 1] != [digest]:
            self._patiently(lambda: self._client.put(self._name, index, chunk, digest))
            self._delivery.sent_bytes += len(chunk)
        self._delivery.done_bytes += len(chunk)
        self._progress()

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask again while the connection is broken, for a while. A chunk that comes twice is harmless."""
        give_up = time.monotonic() + self._patience_s
        while True:
            try:
                return ask()
            except UnreachableError:
                if time.monotonic() > give_up or self._error is not None:
                    raise
                time.sleep(PAUSE_S)
