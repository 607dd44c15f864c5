"""Carries out the scheduler's actions on the KV cache and on the store of prefixes.

Knows that changes of the KV cache wait for the next step, and which actions cannot wait.
Refuses to know why an action is due.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dure.engine.executor import Batch, Executor
from dure.engine.kv import Clear, Forget, KvOp, RestoreState
from dure.generate.prefix_store import PrefixStore
from dure.generate.scheduler import (
    Action,
    DropPrefix,
    LoadPrefix,
    Scheduler,
    StorePrefix,
)

__all__ = ["KvActions"]

NO_TOKENS = np.zeros(0, np.int32)


class KvActions:
    """The actions of one scheduler, on one executor. store: None if nothing is stored."""

    def __init__(self, executor: Executor, scheduler: Scheduler, store: PrefixStore | None) -> None:
        self._executor, self._scheduler, self._store = executor, scheduler, store
        self._waiting: list[KvOp] = [Clear()]  # what an engine before this one left is cleared

    def do(self, action: Action) -> bool:
        """Carry out an action; False if a prefix could not be loaded."""
        match action:
            case StorePrefix():
                self._save(action)
            case LoadPrefix():
                return self._load(action)
            case DropPrefix():
                if self._store is not None:
                    self._store.drop(action)
            case _:
                self._waiting.append(action)
        return True

    def do_all(self, actions: Iterable[Action]) -> bool:
        """Carry out every action, whatever becomes of those before it; False if one could not be."""
        return all([self.do(action) for action in actions])  # noqa: C419  # each is done

    def take(self) -> list[KvOp]:
        """Return the changes of the KV cache that the next step must make first."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def _save(self, action: StorePrefix) -> None:
        self._flush()
        if self._store is not None and not self._store.save(action):
            self._scheduler.store_failed(action.key)

    def _load(self, action: LoadPrefix) -> bool:
        self._flush()
        if self._store is None or not self._store.load(action):
            return False
        if action.state:
            self._waiting.append(RestoreState(action.slot, action.state, action.n))
        elif action.n < action.n_stored:
            self._waiting.append(Forget(action.slot, action.n))
        return True

    def _flush(self) -> None:
        """Make the changes of the KV cache now, in a step without tokens."""
        if self._waiting:
            self._executor.step(Batch(NO_TOKENS, NO_TOKENS, NO_TOKENS, top_k=1, kv=self.take()))
