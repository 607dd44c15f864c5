"""A model that is served: its engine, its vocabulary and its names.

Refuses to know HTTP and how an answer is written.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from dure.chat.reading import TextTools, tokens_of
from dure.errors import NotReadyError, ParameterError
from dure.isolation import Isolation
from dure.model.vocabulary import Vocabulary
from dure.serve.adapters import AdapterVariant, ServedAdapters
from dure.serve.engine import Engine

__all__ = ["LONG_TEXT", "ServedModel"]

LONG_TEXT = 8_192  # characters: the tokens of fewer take a millisecond


@dataclass
class ServedModel:
    """One model of a server.

    vocabulary: for what the model says; texts: reads what clients say. name: the one that is shown.
    created: seconds since 1970.
    """

    engine: Engine
    vocabulary: Vocabulary
    texts: Isolation[TextTools]
    name: str
    aliases: tuple[str, ...] = ()
    adapters: ServedAdapters = field(default_factory=ServedAdapters)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self._pieces: dict[tuple[int, bool], bytes] = {}

    @property
    def variants(self) -> list[AdapterVariant]:
        """The model as requests that do not say adapters get it, and with each adapter alone."""
        return [
            AdapterVariant(self.name, "", self.adapters.active),
            *self.adapters.variants(self.name),
        ]

    def variant(self, name: str | None) -> AdapterVariant:
        """Return what a request's `model` names.

        The model with an adapter is `model:adapter`, with any name of the model, or the adapter's name
        alone. Every other name is the model's.
        """
        own, *others = self.variants
        asked = (name or "").removesuffix(":latest")
        if others and asked not in {self.name, *self.aliases}:
            for variant in others:
                own_names = (f"{one}:{variant.adapter}" for one in (self.name, *self.aliases))
                if asked in {variant.adapter, *own_names}:
                    return variant
        return own

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
        """Return the tokens of a text. Raises UsageError if the model's tokenizer cannot read it."""
        return await self.texts.called(
            tokens_of, text, special, add_bos, is_long=len(text) > LONG_TEXT
        )

    def check_tokens(self, tokens: Sequence[int], param: str = "prompt") -> None:
        """Raise ParameterError if a number is no token of the model."""
        for token in tokens:
            if not 0 <= token < self.vocabulary.n_tokens:
                n = self.vocabulary.n_tokens
                raise ParameterError(
                    param, f"{param}: there is no token {token}", f"only 0 to {n - 1}"
                )
