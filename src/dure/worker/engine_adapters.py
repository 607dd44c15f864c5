"""The adapters (LoRA) that come and go while an engine runs.

Knows that it happens between two steps, and that an adapter goes once no request uses it. Refuses to know
who asks for it.
"""

from __future__ import annotations

from pathlib import Path

from dure.deploy.adapters import load_adapter
from dure.deploy.deployment import Deployment
from dure.errors import ClusterError, DureError, EngineError
from dure.generate.loop import EngineLoop
from dure.model.gguf import open_gguf
from dure.worker import protocol as msg
from dure.worker.connection import SupervisorConnection

__all__ = ["EngineAdapters"]


class EngineAdapters:
    """Loads and frees adapters of one engine, and reports it."""

    def __init__(
        self,
        model: Path,
        deployment: Deployment,
        loop: EngineLoop,
        supervisor: SupervisorConnection,
    ) -> None:
        self._model, self._deployment, self._loop = model, deployment, loop
        self._supervisor = supervisor
        self._leaving: set[int] = set()

    def load(self, adapter: msg.LaterAdapter) -> None:
        """Load an adapter into every rank. Raises EngineError or ClusterError if the ranks are gone."""
        error = None
        try:
            with open_gguf(self._model) as model:
                load_adapter(model, self._deployment, Path(adapter.path), adapter.number)
        except (EngineError, ClusterError):
            raise
        except DureError as problem:
            error = problem.record()
        self._supervisor.send(msg.AdapterAttached(adapter.number, error))

    def drop(self, number: int) -> None:
        """Free an adapter as soon as no request uses it."""
        self._leaving.add(number)

    def advance(self) -> None:
        """Free what nobody uses any more; between two steps."""
        for number in [n for n in self._leaving if not self._loop.uses_adapter(n)]:
            self._deployment.executor.drop_adapter(number)
            self._leaving.remove(number)
            self._supervisor.send(msg.AdapterDetached(number))
