"""Runs the engine of a model that only makes embeddings."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from dure.deploy.reporter import EngineEvent
from dure.engine.compute.embedder import Embedder
from dure.errors import DureError
from dure.generate.request import Embedded, Event, Failed, Request
from dure.model.gguf import open_gguf
from dure.worker import protocol as msg
from dure.worker.connection import SupervisorConnection
from dure.worker.model_info import model_info

__all__ = ["EmbeddingServer"]


class EmbeddingServer:
    """Runs a model that only makes embeddings, until its supervisor stops it."""

    def __init__(self, options: msg.EngineOptions, supervisor: SupervisorConnection) -> None:
        self._supervisor = supervisor
        with open_gguf(Path(options.model)) as gguf:
            supervisor.event(EngineEvent.LOADS)
            with supervisor.loading(gguf.paths[0].name) as progress:
                self._embedder = Embedder(
                    gguf, options.run.threads, options.run.ctx, options.pooling, progress=progress
                )
            info = model_info(gguf, self._embedder.info)
        ranks = self._embedder.ranks
        supervisor.send(msg.Ready(msgspec.structs.replace(info, ranks=ranks, embeds=not ranks)))

    def run(self) -> None:
        """Answer requests until Stop."""
        while True:
            for message in self._supervisor.inbox(3600.0):
                match message:
                    case msg.Submit(request):
                        self._supervisor.send(msg.Events([self._embed(request)]))
                    case msg.Stop():
                        return

    def _embed(self, request: Request) -> Event:
        try:
            values = self._embedder.embed(np.array(request.prompt, np.int32))
        except DureError as error:
            return Failed(request.id, error.record())
        return Embedded(request.id, values.tobytes())

    def finish(self) -> None:
        """Do nothing: there is no state to save."""

    def close(self) -> None:
        """Free the model."""
        self._embedder.close()
