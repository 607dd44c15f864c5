"""What every route of a server shares: the engine, the vocabulary, the chat format, its settings.

Refuses to know HTTP bodies and how an answer is written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from dure.chat.format import ChatFormatter, PreparedChat
from dure.chat.task import ChatTask
from dure.errors import NotReadyError, ParameterError, UsageError
from dure.generate.request import Sampling
from dure.model.vocabulary import Vocabulary
from dure.serve.engine import Engine

__all__ = [
    "EmbeddingModel",
    "ServerState",
    "State",
    "current_state",
    "owner_of",
]

LONG_TEXT = 8_192  # characters; shorter ones are tokenized sooner than a thread is woken


@dataclass(frozen=True)
class EmbeddingModel:
    """A model of its own for /v1/embeddings."""

    engine: Engine
    vocabulary: Vocabulary
    name: str


@dataclass
class ServerState:
    """One server. `sampling`: what holds where a request says nothing.

    embedding None: the model itself embeds. keep_alive_s: silence after which a stream says that it
    is alive. slots: whether /slots answers. formatter None: the model cannot chat.
    """

    engine: Engine
    vocabulary: Vocabulary
    formatter: ChatFormatter | None
    model: str
    aliases: tuple[str, ...] = ()
    embedding: EmbeddingModel | None = None
    sampling: Sampling = field(default_factory=Sampling)
    keep_alive_s: float = 10.0
    slots: bool = True
    fingerprint: str = "b-dure"
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self._pieces: dict[tuple[int, bool], bytes] = {}
        self._embedder: ServerState | None = None

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of a token, remembered."""
        found = self._pieces.get((token, special))
        if found is None:
            found = self.vocabulary.piece(token, special=special)
            self._pieces[token, special] = found
        return found

    @property
    def embedder(self) -> ServerState:
        """The state of the model that embeds: this one, where there is no other."""
        found = self.embedding
        if found is None:
            return self
        if self._embedder is None:
            self._embedder = ServerState(
                found.engine, found.vocabulary, None, found.name, created=self.created
            )
        return self._embedder

    def ready(self) -> None:
        """Raises NotReadyError (or EngineError's kin of `engine.info`) before a model was loaded."""
        if self.engine.state == "loading":
            doing = f": {self.engine.doing}" if self.engine.doing else ""
            raise NotReadyError(f"Loading model{doing}", progress=self.engine.progress)
        if self.engine.state == "stopped":
            raise NotReadyError("the server is stopping")
        if self.engine.state == "failed":
            raise NotReadyError(f"the model does not run: {self.engine.reason}")

    async def tokenize(
        self, text: str, *, special: bool = False, add_bos: bool = True
    ) -> list[int]:
        """The tokens of a text; a long one never stops the other requests."""

        def work() -> list[int]:
            return self.vocabulary.tokenize(text, special=special, add_bos=add_bos)

        return work() if len(text) < LONG_TEXT else await asyncio.to_thread(work)

    async def prepare(self, task: ChatTask) -> PreparedChat:
        """The conversation as a prompt. Raises UsageError where the model cannot chat like this."""
        formatter = self.formatter
        if formatter is None:
            raise UsageError("this model has no chat template: use /v1/completions")
        return await asyncio.to_thread(formatter.prepare, task)

    def check_tokens(self, tokens: Sequence[int], param: str = "prompt") -> None:
        """Raises ParameterError where a number is no token of the model."""
        for token in tokens:
            if not 0 <= token < self.vocabulary.n_tokens:
                n = self.vocabulary.n_tokens
                raise ParameterError(
                    param, f"{param}: there is no token {token}, only 0 to {n - 1}"
                )


async def current_state(request: Request) -> ServerState:
    """The state of the server that a request came to."""
    state: ServerState = request.app.state.server
    return state


State = Annotated[ServerState, Depends(current_state)]


def owner_of(request: Request) -> str:
    """Whose request it is: the name of its key as the guard noted it, else the client's address."""
    owner = request.scope.get("state", {}).get("owner")
    if owner:
        return str(owner)
    return request.client.host if request.client else ""
