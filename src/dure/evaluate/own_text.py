"""Has a model write the text that it is calibrated with: many short texts at once, drawn at temperature 1.

The same model writes the same texts again: each has a seed of its own, and comes out the same whatever else
is computed beside it. Refuses to know what the text is for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dure.chat.turn import Conversations
from dure.engine.executor import Executor
from dure.errors import UsageError, revived
from dure.evaluate.openings import OPENINGS
from dure.generate.loop import EngineLoop
from dure.generate.request import Done, Failed, Request, Sampling, Token
from dure.model.vocabulary import Vocabulary

__all__ = ["AT_ONCE", "OWN_LENGTH", "OwnText", "own_length", "own_prompts"]

PromptOf = Callable[[str], list[int]]

AT_ONCE = 8  # texts
OWN_LENGTH = 512  # tokens of a text with its prompt
_MOST_LIKELY = 64  # tokens that each is drawn from: what is left out is rare, and mostly a slip
_ENOUGH_TO_JUDGE = 64  # texts
_LEAST_WRITTEN = 8  # tokens of a text, on average


def own_length(least: int, n_ctx_train: int) -> int:
    """Return the tokens of a text with its prompt: 512 if the model knows as many, and at least `least`."""
    return max(least, min(OWN_LENGTH, n_ctx_train))


def own_prompts(conversations: Conversations, vocabulary: Vocabulary, *, chats: bool) -> PromptOf:
    """Return what makes a prompt of an opening: by the chat template if the model chats, or a heading."""

    def prompt(opening: str) -> list[int]:
        if chats:
            return conversations.turn([{"role": "user", "content": opening}]).prompt
        return vocabulary.tokenize(f"{opening}\n\n")

    return prompt


class OwnText:
    """The texts of one model. prompt_of: makes a prompt of an opening. length: of a text with its prompt.

    begun: the first texts, from an earlier run.
    """

    def __init__(
        self,
        executor: Executor,
        vocabulary: Vocabulary,
        prompt_of: PromptOf,
        length: int,
        begun: Sequence[list[int]] = (),
    ) -> None:
        self._loop = EngineLoop(executor, vocabulary)
        self._prompt_of, self._length = prompt_of, length
        self.texts = list(begun)
        self._next = len(self.texts)
        self._open: dict[int, list[int]] = {}
        self._ended: dict[int, list[int]] = {}
        self._n_written, self._n_ended = 0, 0

    @property
    def n_tokens(self) -> int:
        """Count the tokens of the texts that are finished, without those that wait for an earlier one."""
        return sum(map(len, self.texts))

    def write(
        self,
        n_tokens: int,
        finished: Callable[[list[list[int]]], None],
        progress: Callable[[int], None] = lambda _: None,
    ) -> list[int]:
        """Return at least n_tokens tokens. finished: is called with all texts when there is one more.

        progress: is called with the tokens so far. Raises UsageError if the model hardly writes.
        """
        while self.n_tokens < n_tokens:
            while len(self._open) < AT_ONCE:
                self._submit()
            self._step()
            while (text := self._ended.pop(len(self.texts), None)) is not None:
                self.texts.append(text)
                finished(self.texts)
            held = sum(len(text) for texts in (self._open, self._ended) for text in texts.values())
            progress(min(n_tokens, self.n_tokens + held))
        self._end()
        return [token for text in self.texts for token in text]

    def _submit(self) -> None:
        number, self._next = self._next, self._next + 1
        prompt = self._prompt_of(OPENINGS[number % len(OPENINGS)])
        if len(prompt) >= self._length:
            raise UsageError(
                f"the chat template alone has {len(prompt)} tokens", "use a larger --ctx"
            )
        self._open[number] = prompt
        self._loop.submit(
            Request(
                id=str(number),
                prompt=list(prompt),
                sampling=Sampling(
                    temperature=1.0, top_k=_MOST_LIKELY, top_p=1.0, min_p=0.0, seed=number
                ),
                max_tokens=self._length - len(prompt),
            )
        )

    def _step(self) -> None:
        for event in self._loop.step():
            match event:
                case Token():
                    self._open[int(event.id)].append(event.token)
                    self._n_written += 1
                case Done():
                    text = self._open.pop(int(event.id))
                    self._ended[int(event.id)] = text + (
                        [] if event.end_token is None else [event.end_token]
                    )
                    self._n_ended += 1
                case Failed():
                    raise revived(event.error)
        if self._n_ended >= _ENOUGH_TO_JUDGE and self._n_written < _LEAST_WRITTEN * self._n_ended:
            raise UsageError(
                f"the model ends its texts after {self._n_written / self._n_ended:.0f} tokens",
                "give it text with --data",
            )

    def _end(self) -> None:
        """Cancel the texts that are not needed any more."""
        for number in self._open:
            self._loop.cancel(str(number))
        while self._loop.busy:
            self._loop.step()
