"""What a running model is, what it makes of tokens, and how it ends.

Knows its parts, and the numbers that it gives. Refuses to know answers.
"""

from __future__ import annotations

import os
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from dure.chat.reading import TextTools, tokens_of
from dure.engine.executor import ExecutorInfo
from dure.errors import UsageError, revived
from dure.generate.request import Done, Failed, PromptLogits, PromptLogprobs, Request, Sampling
from dure.isolation import Isolation
from dure.library.adapters import RunningAdapters
from dure.library.arguments import Prompt
from dure.library.shared_loop import SharedLoop
from dure.library.wording import in_python
from dure.model.vocabulary import Vocabulary

__all__ = ["ModelParts", "ModelWithTokens", "new_id"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ModelParts:
    """What a running model is made of. sampling: what its file says of it."""

    path: Path
    architecture: str
    info: ExecutorInfo
    loop: SharedLoop
    vocabulary: Vocabulary
    texts: Isolation[TextTools]
    sampling: Sampling
    adapters: RunningAdapters


class ModelWithTokens:
    """A running model that scores texts and tokenizes them."""

    def __init__(self, parts: ModelParts, resources: ExitStack) -> None:
        self._parts, self._loop = parts, parts.loop
        self._close = weakref.finalize(self, _end, os.getpid(), parts.loop, resources)

    # ------------------------------------------------------------ facts

    @property
    def path(self) -> Path:
        """The model's file."""
        return self._parts.path

    @property
    def name(self) -> str:
        """The name of its file, without the ending."""
        return self._parts.path.stem

    @property
    def architecture(self) -> str:
        """The model's architecture, as its file says it."""
        return self._parts.architecture

    @property
    def n_ctx(self) -> int:
        """How many tokens a prompt and its answer may have together."""
        return self._parts.info.n_ctx

    @property
    def n_ctx_train(self) -> int:
        """How many the model was trained for."""
        return self._parts.vocabulary.n_ctx_train

    @property
    def n_vocab(self) -> int:
        """How many tokens the model knows."""
        return self._parts.info.n_vocab

    @property
    def n_ranks(self) -> int:
        """How many ranks compute it."""
        return self._parts.info.n_ranks

    def __repr__(self) -> str:
        state = "" if self._close.alive else " (closed)"
        return f"<dure.Model {self.name}: {self.n_ranks} ranks, context {self.n_ctx}{state}>"

    @property
    def _running(self) -> ModelParts:
        if not self._close.alive:
            raise UsageError("the model is closed", "open it again")
        return self._parts

    def _piece(self, token: int, special: bool) -> bytes:
        return self._running.vocabulary.piece(token, special=special)

    # ------------------------------------------------------------ adapters

    def load_adapter(self, path: str | os.PathLike[str], *, scale: float = 1.0) -> int:
        """Load an adapter (LoRA, in GGUF) into every rank; return its number, for `lora` of an answer.

        Running answers wait meanwhile, and go on as they began. scale: for answers that do not say `lora`.
        """
        return self._running.adapters.load(Path(path).absolute(), scale)

    # ------------------------------------------------------------ numbers

    def logits(self, prompt: Prompt, *, lora: Mapping[int, float] | None = None) -> Floats:
        """Return what the model gives to every token after each of a text: float32 [n_tokens, n_vocab].

        Row i belongs to what follows token i. Many tokens of a large vocabulary fill much memory;
        `logprobs` is enough to score a text. lora: see `Model.generate`.
        """
        tokens, adapters = self._tokens(prompt), self._running.adapters.chosen(lora)
        rows = np.empty((len(tokens), self.n_vocab), np.float32)
        request = Request(id=new_id(), prompt=tokens, prompt_logits=True, adapters=adapters)
        for event in self._read(request):
            if isinstance(event, PromptLogits):
                values = np.frombuffer(event.values, np.float32).reshape(-1, self.n_vocab)
                rows[event.start : event.start + len(values)] = values
        return rows

    def logprobs(self, prompt: Prompt, *, lora: Mapping[int, float] | None = None) -> Floats:
        """Return the log-probability of each token of a text after those before it: float32 [n_tokens].

        The first, which nothing comes before, is NaN. lora: see `Model.generate`.
        """
        tokens, adapters = self._tokens(prompt), self._running.adapters.chosen(lora)
        values = np.full(len(tokens), np.nan, np.float32)
        request = Request(
            id=new_id(), prompt=tokens, prompt_logprobs=0, max_tokens=0, adapters=adapters
        )
        for event in self._read(request):
            if isinstance(event, PromptLogprobs):
                values[event.start : event.start + len(event.logprobs)] = event.logprobs
        return values

    def _read(self, request: Request) -> Iterator[PromptLogits | PromptLogprobs]:
        self._loop.submit(request)
        try:
            while not isinstance(event := self._loop.next(request.id), Done):
                if isinstance(event, Failed):
                    raise in_python(revived(event.error))
                if isinstance(event, PromptLogits | PromptLogprobs):
                    yield event
        finally:
            self._loop.forget(request.id)

    # ------------------------------------------------------------ tokens

    def tokenize(self, text: str, *, special: bool = True, bos: bool = True) -> list[int]:
        """Return a text's tokens. special: read names of special tokens as these; bos: begin as the model
        wants.
        """
        return self._running.texts.call(tokens_of, text, special, bos)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of tokens. special: show special tokens by name."""
        data = b"".join(self._piece(token, special) for token in self._checked(tokens))
        return data.decode("utf-8", "replace")

    def _tokens(self, prompt: Prompt) -> list[int]:
        return self.tokenize(prompt) if isinstance(prompt, str) else self._checked(prompt)

    def _checked(self, tokens: Sequence[int]) -> list[int]:
        numbers = [int(token) for token in tokens]
        for token in numbers:
            if not 0 <= token < self.n_vocab:
                raise UsageError(f"there is no token {token}", f"only 0 to {self.n_vocab - 1}")
        return numbers

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """End the ranks and free the memory. Nothing happens if it was closed before."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _end(owner: int, loop: SharedLoop, resources: ExitStack) -> None:
    if os.getpid() == owner:  # what a program forks has a copy of everything, and must end nothing
        loop.close(resources.close)


def new_id() -> str:
    """Return a request's identity."""
    return uuid.uuid4().hex
