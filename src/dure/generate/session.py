"""One conversation on an executor: prompt in, text out; the KV cache is kept between turns.

What `dure run` and `dure chat` use: the engine's loop with one request at a time, in this process.
Refuses to know how prompts are rendered from messages.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.engine.executor import Executor
from dure.errors import UsageError, context_error, revived
from dure.generate.loop import EngineLoop
from dure.generate.request import Done, Failed, Request, Sampling, Timings, Token
from dure.generate.speculative.proposer import Proposer
from dure.model.vocabulary import Vocabulary

__all__ = ["AnswerPiece", "Session"]

_ID = "turn"  # one at a time


@dataclass(frozen=True)
class AnswerPiece:
    """A generated token, and the text it completes, empty in the middle of a character.

    token: None in a last piece that only holds the text of an incomplete character.
    """

    token: int | None
    text: str


class Session:
    """One conversation on an executor, with some of its adapters.

    After an answer, `finish` tells why it ended: "stop" (the model ended it), "length" (max_tokens or the
    context is reached) or "cancelled"; `timings` what it took.
    """

    def __init__(
        self,
        executor: Executor,
        vocabulary: Vocabulary,
        proposer: Proposer | None = None,
        adapters: AdapterSet = NO_ADAPTERS,
    ) -> None:
        self._executor, self._vocabulary, self._adapters = executor, vocabulary, adapters
        self._loop = EngineLoop(executor, vocabulary, proposer=proposer)
        self.timings, self.finish = Timings(), ""

    def answer(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        max_tokens: int | None = None,
        return_points: tuple[int, ...] = (),
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[AnswerPiece]:
        """Generate after `prompt`; `cancelled` is called between steps. return_points: see `Request`.

        Raises UsageError if the prompt is empty or longer than the context.
        """
        self._check(prompt, max_tokens)
        self.finish = "cancelled"
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._loop.submit(
            Request(
                id=_ID,
                prompt=list(prompt),
                sampling=sampling,
                max_tokens=max_tokens,
                return_points=return_points,
                adapters=self._adapters,
            )
        )
        try:
            for token in self._tokens(cancelled):
                yield AnswerPiece(token, decoder.decode(self._vocabulary.piece(token)))
        finally:
            self._loop.cancel(_ID)  # if the reader has gone
        if rest := decoder.decode(b"", final=True):
            yield AnswerPiece(None, rest)

    def _tokens(self, cancelled: Callable[[], bool]) -> Iterator[int]:
        while self._loop.busy:
            if cancelled():
                self._loop.cancel(_ID)
            for event in self._loop.step():
                match event:
                    case Token():
                        yield event.token
                    case Done():
                        self.finish, self.timings = event.reason, event.timings
                    case Failed():
                        raise revived(event.error)

    def _check(self, prompt: Sequence[int], max_tokens: int | None) -> None:
        if not prompt:
            raise UsageError("the prompt is empty", "give some text")
        if max_tokens is not None and max_tokens < 1:
            raise UsageError(f"--max-tokens {max_tokens}", "give a number above 0")
        n_ctx = self._executor.info.n_ctx
        if len(prompt) >= n_ctx:
            raise context_error(len(prompt), n_ctx)
