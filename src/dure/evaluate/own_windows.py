"""A text that a model writes itself to be judged on, in windows: kept, so that it is written once.

Every text is kept as soon as it is written, so what was stopped goes on. Refuses to know what is scored.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dure.chat.reading import TextTools, prepared_chat
from dure.chat.turn import Conversations
from dure.engine.executor import Executor
from dure.evaluate.own_text import OwnText, own_length, own_prompts
from dure.evaluate.store import WindowStore
from dure.evaluate.windows import TextWindows, cut_into_windows
from dure.isolation import Isolation
from dure.model.vocabulary import Vocabulary

__all__ = ["OwnWindows"]

_VERSION = 1  # of what is written: raise it when the same model would write something else


class OwnWindows:
    """The windows of one model's text. identity: of the model; see `identity_of`.

    directory: where they are kept; None: in the cache.
    """

    def __init__(
        self, identity: str, n_windows: int, n_ctx: int, directory: Path | None = None
    ) -> None:
        self._n_windows, self._n_ctx = n_windows, n_ctx
        key = f"{_VERSION} own {identity} {n_ctx}"
        self._texts = WindowStore(f"{key} texts", directory)
        self._windows = WindowStore(f"{key} {n_windows} windows", directory)

    def length(self, n_ctx_train: int) -> int:
        """Return the context that the model writes in; it was trained for n_ctx_train tokens."""
        return own_length(self._n_ctx, n_ctx_train)

    def windows(self, author: str) -> TextWindows | None:
        """Return all windows; None if some are not written yet. author: the model, for a person."""
        content = self._windows.load(0)
        if content is None:
            return None
        tokens = np.frombuffer(content, np.int32).reshape(self._n_windows, self._n_ctx)
        return TextWindows(tokens, author, is_own=True)

    def write(
        self,
        executor: Executor,
        vocabulary: Vocabulary,
        texts: Isolation[TextTools],
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Have the model write what is missing, as many texts at once as the executor has sequences."""
        n_tokens = self._n_windows * self._n_ctx
        begun = self._begun(n_tokens)
        length = self.length(vocabulary.n_ctx_train)
        conversations = Conversations(vocabulary, lambda task: texts.call(prepared_chat, task))
        prompt_of = own_prompts(conversations, vocabulary, chats=vocabulary.has_chat_template)
        own = OwnText(executor, vocabulary, prompt_of, length, begun)

        def keep(written: list[list[int]]) -> None:
            self._texts.save(len(written) - 1, np.array(written[-1], np.int32).tobytes())

        tokens = own.write(n_tokens, keep, lambda done: progress(done / n_tokens))
        windows = cut_into_windows(
            tokens, self._n_ctx, begin=vocabulary.begin, source="", most=self._n_windows
        )
        self._windows.save(0, windows.tokens.tobytes())

    def _begun(self, n_tokens: int) -> list[list[int]]:
        """Return the texts that were written before, no more than are needed."""
        texts: list[list[int]] = []
        while sum(map(len, texts)) < n_tokens:
            content = self._texts.load(len(texts))
            if content is None:
                break
            texts.append(np.frombuffer(content, np.int32).tolist())
        return texts
