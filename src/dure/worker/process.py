"""The process that generates: one model, one loop, one client at the other end of a Unix socket.

Started as `python -m dure.worker.process SOCKET`. Crash-only: what goes wrong is told in one message,
and the process ends; its client starts another one and gives it the requests that ran.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from dure.deploy.draft import start_draft
from dure.deploy.start import Opened, Wishes, open_executor
from dure.engine.compute.allreduce import Wire
from dure.engine.compute.embedder import Embedder
from dure.engine.executor import ExecutorInfo
from dure.errors import ClusterError, DureError
from dure.generate.checkpoints import Checkpoints
from dure.generate.loop import EngineLoop
from dure.generate.prefix_store import PrefixStore
from dure.generate.request import Embedded, Event, Failed, ModelInfo, Request, Token
from dure.generate.speculative.draft_model import DraftModel
from dure.generate.speculative.proposer import draft_model_path, proposer_for
from dure.model.gguf import GgufFile, open_gguf
from dure.model.vocabulary import Vocabulary
from dure.plan.memory import tokens_moved_in_a_pass
from dure.worker import protocol as msg
from dure.worker.lifecycle import Happening

TELL_STATS_S = 0.5
IDLE_S = 0.5  # between looks for messages
LOOK_EVERY_S = 5.0  # at idle ranks: one that has died is noticed before a request needs it
PERSIST_AFTER_S = 2.0  # of quiet
QUIET_S = 3.0  # before the engine starts again, with a machine that was missing
_POOLING = {0: "last", 1: "mean", 2: "cls", 3: "last"}  # llama.cpp's llama_pooling_type
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Client:
    """The other end: sends messages, and listens in a thread of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._told = -1.0

    def listen(self) -> None:
        """Collect what the client sends from now on; its end counts as Stop."""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            while True:
                self._inbox.put(self.receive())
        except (EOFError, OSError):
            self._inbox.put(msg.Stop())

    def receive(self) -> Any:
        """The next message."""
        return msg.decode(self._connection.recv_bytes(), msg.ToWorker)

    def send(self, message: Any) -> None:
        """Send one message."""
        self._connection.send_bytes(msg.encode(message))

    def inbox(self, timeout_s: float | None) -> Iterator[Any]:
        """What has come; waits for the first of it up to timeout_s."""
        try:
            yield self._inbox.get(timeout=timeout_s) if timeout_s else self._inbox.get_nowait()
            while True:
                yield self._inbox.get_nowait()
        except queue.Empty:
            return

    # ------------------------------------------------------------ a Listener of `opening`

    @contextmanager
    def cutting(self, name: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """Tells the client how much of a model is cut."""
        done = 0

        def more(n: int) -> None:
            nonlocal done
            done += n
            self._tell(f"cutting {name}", done / max(1, total_bytes))

        yield more

    def loading(self, what: str) -> AbstractContextManager[Callable[[float], None]]:
        """Tells the client how much of the weights is loaded."""
        return self.doing(f"loading {what}")

    @contextmanager
    def doing(self, what: str) -> Iterator[Callable[[float], None]]:
        """Tells the client how much is done of what takes long."""
        self._told = -1.0
        yield lambda fraction: self._tell(what, fraction)

    def happened(self, happening: Happening) -> None:
        """Tells the client which state the engine comes into."""
        self.send(msg.Happened(happening))

    def news(self, text: str) -> None:
        """Passes on what happened."""
        self.send(msg.Warned(text, is_news=True))

    def warn(self, text: str) -> None:
        """Passes a warning on."""
        self.send(msg.Warned(text))

    def _tell(self, what: str, fraction: float) -> None:
        if abs(fraction - self._told) >= 0.01:
            self._told = fraction
            self.send(msg.Loading(what, fraction))


class Generator:
    """A model that generates, until the client has had enough."""

    def __init__(self, options: msg.EngineOptions, client: Client) -> None:
        self._options, self._client = options, client
        with open_gguf(Path(options.model)) as gguf:
            self._vocabulary = Vocabulary(gguf)
            wishes = Wishes(
                options.ranks,
                options.shares,
                options.threads,
                options.ctx,
                options.parallel,
                Wire(options.sync),
                options.cluster,
                options.nodes,
                options.interface,
                options.grace_s,
                options.ended,
                options.silent_s,
                options.mlock,
                options.pin,
            )
            opened = open_executor(gguf, wishes, client)
            self._executor, self._why_again = opened.executor, opened.why_again
            self._learn, self._has_learnt = opened.learn, False
            self._note, self._store = opened.note, self._open_store(gguf, opened)
            pooling = options.pooling or _POOLING.get(
                gguf.int(f"{gguf.architecture}.pooling_type", 3), "last"
            )
            n_ctx = opened.executor.info.n_ctx
            draft_model = None
            if path := draft_model_path(options.draft):
                draft_model = DraftModel(start_draft(path, self._vocabulary, wishes, n_ctx, client))
            self._proposer = proposer_for(options.draft, gguf, draft_model)
            self._loop = EngineLoop(
                opened.executor,
                self._vocabulary,
                pooling=pooling,
                store=self._store,
                store_tokens=self._store_tokens(opened),
                checkpoints=Checkpoints(options.checkpoint_s) if options.checkpoint_s else None,
                proposer=self._proposer,
                pass_tokens=tokens_moved_in_a_pass(
                    opened.weights_bytes, sum(opened.kv_token_bytes)
                ),
            )
            self._peak_bytes: tuple[int, ...] = ()
            self._pending: list[Event] = []
            self._told_at = self._worked_at = self._looked_at = time.monotonic()
            self._resting, self._persisted = False, not options.persistent
            self._replays_since = 0.0
            client.send(msg.Ready(_info(gguf, opened.executor.info)))

    def _open_store(self, gguf: GgufFile, opened: Opened) -> PrefixStore | None:
        if not self._options.store or not sum(opened.kv_token_bytes):
            return None
        directory = Path(self._options.store) / f"{gguf.fingerprint[:16]}-{opened.cut_name}"
        return PrefixStore(directory, opened.executor)

    def _store_tokens(self, opened: Opened) -> int:
        """How many tokens may be stored: half of any rank's room, and here what the user allows."""
        if self._store is None:
            return 0
        each = opened.kv_token_bytes
        room = zip(self._store.free_bytes(), each, strict=True)
        fits = min(free // 2 // bytes_ for free, bytes_ in room if bytes_)
        here = each[0] if self._options.cluster else sum(each)
        return min(fits, self._options.store_bytes // here)

    def run(self) -> None:
        """Answer until Stop comes."""
        while True:
            for message in self._client.inbox(IDLE_S if self._resting else None):
                if not self._take(message):
                    return
            if self._loop.busy:
                self._work()
            else:
                self._rest()

    def _work(self) -> None:
        """One step. What the last one brought is told while this one is computed."""
        self._pending += self._loop.admit()
        try:
            events = self._loop.step(self._send_pending)
        finally:
            self._send_pending()
        self._pending = events
        if not self._loop.busy:
            self._send_pending()
        if self._replays_since and any(isinstance(event, Token) for event in events):
            self._note_replay()
        self._worked_at = time.monotonic()
        self._resting, self._persisted = False, not self._options.persistent
        if self._worked_at - self._told_at > TELL_STATS_S:
            self._tell()

    def _note_replay(self) -> None:
        """What it took to take up the answers of the engine before this one."""
        stats = self._loop.stats()
        facts = {
            "replay_s": round(time.monotonic() - self._replays_since, 2),
            "computed_tokens": stats.prompt_tokens,
            "cached_tokens": stats.cache_hits,
        }
        self._note("replayed", facts)
        self._replays_since = 0.0

    def _rest(self) -> None:
        """What is done when nothing runs: figures once, prefixes to the disk, and a look at the ranks."""
        now = time.monotonic()
        if not self._resting or now - self._looked_at > LOOK_EVERY_S:
            self._looked_at = now
            self._peak_bytes = tuple(rank.peak_bytes for rank in self._executor.facts())
        if not self._resting:
            self._resting = True
            self._tell()
        if not self._has_learnt and (seconds := self._loop.decode_compute_s()):
            self._learn(seconds)
            self._has_learnt = True
        if now - self._worked_at > QUIET_S and (why := self._why_again()):
            raise ClusterError(why)
        if not self._persisted and now - self._worked_at > PERSIST_AFTER_S:
            self._loop.persist()
            self._persisted = True  # also where it failed: a full disk stays full

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        self._client.send(msg.Stats(self._loop.stats(self._peak_bytes)))

    def _take(self, message: Any) -> bool:
        match message:
            case msg.Submit(request):
                if request.answered and not self._replays_since:
                    self._replays_since = time.monotonic()
                self._loop.submit(request)
            case msg.Cancel(request_id):
                self._loop.cancel(request_id)
            case _:
                return False
        return True

    def _send_pending(self) -> None:
        events, self._pending = self._pending, []
        if events:
            self._client.send(msg.Events(events))

    def finish(self) -> None:
        """Keep what is to outlive this engine, and nothing else."""
        if self._store is None:
            return
        with suppress(DureError):  # of ranks that are gone
            if self._options.persistent:
                self._loop.persist()
            else:
                self._store.clear()

    def close(self) -> None:
        """End the ranks."""
        if self._proposer is not None:
            self._proposer.close()
        self._executor.close()


class EmbeddingServer:
    """A model that only makes embeddings."""

    def __init__(self, options: msg.EngineOptions, client: Client) -> None:
        self._client = client
        with open_gguf(Path(options.model)) as gguf:
            client.happened(Happening.LOADS)
            with client.loading(gguf.paths[0].name) as progress:
                self._embedder = Embedder(
                    gguf, options.threads, options.ctx, options.pooling, progress=progress
                )
            client.send(msg.Ready(_info(gguf, self._embedder.info)))

    def run(self) -> None:
        """Answer until Stop comes."""
        while True:
            for message in self._client.inbox(3600.0):
                match message:
                    case msg.Submit(request):
                        self._client.send(msg.Events([self._embed(request)]))
                    case msg.Stop():
                        return

    def _embed(self, request: Request) -> Event:
        try:
            values = self._embedder.embed(np.array(request.prompt, np.int32))
        except DureError as error:
            return Failed(request.id, error.record())
        return Embedded(request.id, values.tobytes())

    def finish(self) -> None:
        """There is nothing to keep."""

    def close(self) -> None:
        """Free the model."""
        self._embedder.close()


def _info(gguf: GgufFile, info: ExecutorInfo) -> ModelInfo:
    weights: dict[str, int] = {}
    for tensor in gguf.tensors.values():
        weights[tensor.type.name] = weights.get(tensor.type.name, 0) + tensor.size_bytes
    return ModelInfo(
        path=str(gguf.paths[0]),
        name=gguf.str("general.name", "") or gguf.paths[0].stem,
        architecture=gguf.architecture,
        n_ctx=info.n_ctx,
        n_ctx_train=gguf.int(f"{gguf.architecture}.context_length", info.n_ctx),
        n_vocab=info.n_vocab,
        n_embd=gguf.int(f"{gguf.architecture}.embedding_length", 0),
        n_sequences=info.n_sequences,
        n_ranks=info.n_ranks,
        threads=info.threads,
        weights_bytes=sum(weights.values()),
        n_params=sum(int(np.prod(tensor.shape)) for tensor in gguf.tensors.values()),
        file_type=max(weights, key=lambda name: weights[name]),
    )


def main() -> None:
    """Serve the client at the socket that is the only argument, until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's business
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect(sys.argv[1])
        client = Client(Connection(unix.detach()))
    try:
        _serve(client)
    except DureError as error:
        client.send(msg.Fatal(error.record()))
        sys.exit(1)
    except (EOFError, ConnectionError):  # the client is gone
        os._exit(1)


def _serve(client: Client) -> None:
    start = client.receive()
    kind = EmbeddingServer if start.options.embedding else Generator
    server = kind(start.options, client)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through `finally`: no rank is left
    is_over = True
    try:
        client.listen()
        server.run()
    except DureError:
        is_over = False  # what is stored is for the engine after this one
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come with the client's end
        if is_over:
            server.finish()
        server.close()


if __name__ == "__main__":
    main()
