"""The adapters (LoRA) that a server has loaded while its engine runs, for this engine and for the next.

Knows which numbers may be asked for. Refuses to know processes: messages are given to it, and taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dure.errors import DureError, EngineError, NotReadyError, revived
from dure.worker import protocol as msg
from dure.worker.awaited import Awaited

__all__ = ["AdapterRegistry"]


@dataclass(frozen=True)
class _Coming:
    """An adapter that is being loaded. done: when it is, or is refused."""

    adapter: msg.LaterAdapter
    done: Awaited


class AdapterRegistry:
    """Numbers adapters from n_first on; those below are of the start.

    send: sends to the engine. warn: gets what a person should know. is_ready: whether an engine listens.
    """

    def __init__(
        self,
        n_first: int,
        send: Callable[[msg.ToWorker], None],
        warn: Callable[[str], None],
        is_ready: Callable[[], bool],
    ) -> None:
        self._n_first = self._next = n_first
        self._send, self._warn, self._is_ready = send, warn, is_ready
        self._coming: dict[int, _Coming] = {}
        self._loaded: dict[int, msg.LaterAdapter] = {}
        self._leaving: dict[int, Awaited] = {}

    @property
    def usable(self) -> frozenset[int]:
        """The numbers that a request may name."""
        return frozenset({*range(self._n_first), *self._loaded} - self._leaving.keys())

    @property
    def of_next_engine(self) -> tuple[msg.LaterAdapter, ...]:
        """What the next engine loads as well: those that leave too, as requests may use them yet."""
        return tuple(self._loaded.values())

    async def load(self, path: str) -> int:
        """Have an adapter loaded, and return its number. Raises what prevents it."""
        self._check_ready()
        adapter = msg.LaterAdapter(path, self._next)
        self._next += 1
        coming = _Coming(adapter, Awaited())
        self._coming[adapter.number] = coming
        self._send(msg.AttachAdapter(adapter))
        await coming.done.wait()
        return adapter.number

    async def drop(self, number: int) -> None:
        """Refuse an adapter to new requests at once; return when it is freed."""
        self._check_ready()
        if number not in self._leaving:
            self._leaving[number] = Awaited()
            self._send(msg.DetachAdapter(number))
        await self._leaving[number].wait()

    def _check_ready(self) -> None:
        if not self._is_ready():
            raise NotReadyError("the model is not ready", "try again in a moment")

    # ------------------------------------------------------------ from the engine

    def engine_ready(self) -> None:
        """Ask a new engine, which has its requests, for what the one before had not done."""
        for number in self._leaving:
            self._send(msg.DetachAdapter(number))

    def take(self, news: msg.AdapterAttached | msg.AdapterDetached) -> None:
        """Note what the engine has done; a new one tells of everything that it loads with its start."""
        match news:
            case msg.AdapterAttached(number, error):
                self._note_loaded(number, revived(error) if error else None)
            case msg.AdapterDetached(number):
                self._note_dropped(number)

    def _note_loaded(self, number: int, error: DureError | None) -> None:
        coming = self._coming.pop(number, None)
        if error is None:
            if coming is not None:
                self._loaded[number] = coming.adapter
                coming.done.keep()
        elif coming is not None:
            coming.done.fail(error)
        else:
            path = self._loaded[number].path
            self._warn(f"the adapter {path} could not be loaded again: {error}")
            self._note_dropped(number)

    def _note_dropped(self, number: int) -> None:
        self._loaded.pop(number, None)
        if done := self._leaving.pop(number, None):
            done.keep()

    def engine_died(self) -> None:
        """Fail what was being loaded: another engine does not try it again, as it may be the cause."""
        coming, self._coming = self._coming, {}
        for one in coming.values():
            one.done.fail(EngineError("the engine ended while it loaded the adapter"))

    def fail_all(self, error: DureError) -> None:
        """Fail everything that waits: no engine comes any more."""
        for done in (*(one.done for one in self._coming.values()), *self._leaving.values()):
            done.fail(error)
