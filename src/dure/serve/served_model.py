"""A model that is served: its engine, its vocabulary and its names.

Refuses to know HTTP, chats and how an answer is written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from dure.errors import NotReadyError, ParameterError
from dure.model.vocabulary import Vocabulary
from dure.serve.engine import Engine

__all__ = ["ServedModel"]

LONG_TEXT = 8_192  # characters; shorter ones are tokenized sooner than a thread is woken


@dataclass
class ServedModel:
    """One model of a server. name: the one that is shown. created: seconds since 1970."""

    engine: Engine
    vocabulary: Vocabulary
    name: str
    aliases: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self._pieces: dict[tuple[int, bool], bytes] = {}

    def piece(self, token: int, special: bool = False) -> bytes:
        """Return the bytes of a token, remembered from the first call on."""
        data = self._pieces.get((token, special))
        if data is None:
            data = self.vocabulary.piece(token, special=special)
            self._pieces[token, special] = data
        return data

    def check_ready(self) -> None:
        """Raise NotReadyError if the engine takes no requests now."""
        engine = self.engine
        if engine.state == "loading":
            doing = f": {engine.doing}" if engine.doing else ""
            raise NotReadyError(f"Loading model{doing}", progress=engine.progress)
        if engine.state == "stopped":
            raise NotReadyError("the server is stopping")
        if engine.state == "failed":
            raise NotReadyError(f"the model does not run: {engine.reason}")

    async def tokenize(
        self, text: str, *, special: bool = False, add_bos: bool = True
    ) -> list[int]:
        """Return the tokens of a text; a long one does not stop other requests."""

        def work() -> list[int]:
            return self.vocabulary.tokenize(text, special=special, add_bos=add_bos)

        return work() if len(text) < LONG_TEXT else await asyncio.to_thread(work)

    def check_tokens(self, tokens: Sequence[int], param: str = "prompt") -> None:
        """Raise ParameterError if a number is no token of the model."""
        for token in tokens:
            if not 0 <= token < self.vocabulary.n_tokens:
                n = self.vocabulary.n_tokens
                raise ParameterError(
                    param, f"{param}: there is no token {token}, only 0 to {n - 1}"
                )
