"""Examples as tokens, each with the weight of its loss: 1 for an answer's, less or nothing for others.

An answer's tokens are found by comparing the tokens of the conversation with those of its beginnings, as
the model's template writes them. Source of the weights' meaning: token t is predicted from those before
it, so its weight counts where t is the target.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from dure.errors import UsageError
from dure.tune.data.chat_text import ChatText
from dure.tune.data.records import ExampleRecord, Kind

__all__ = ["Encoded", "ExampleEncoder"]


@dataclass(frozen=True)
class Encoded:
    """An example's tokens, and the weight of each as a target; the first is never one."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class ExampleEncoder:
    """Writes examples as one model reads them.

    tokenize: a text's tokens, without any that are added. chat: None if the model has no chat template.
    begin: the token that a text begins with, if it has one; end: what ends it. ends: all tokens that end an
    answer. specials: tokens that are no text. prompt_weight: of tokens that are no answer.
    """

    tokenize: Callable[[str], list[int]]
    chat: ChatText | None
    begin: int | None = None
    end: int | None = None
    ends: Collection[int] = ()
    specials: Collection[int] = ()
    prompt_weight: float = 0.0

    def encode(self, record: ExampleRecord) -> Iterator[Encoded]:
        """Yield the examples that a record makes: several if the template rewrites earlier answers.

        Raises UsageError that names the record's place.
        """
        try:
            if record.kind is Kind.TEXT:
                yield self._text(record.parts)
            elif self.chat is not None:
                yield from self._chat(self.chat, record)
            else:
                yield self._plain_pair(record)
        except UsageError as error:
            raise UsageError(f"{record.place}: {error.problem}", error.cure) from None

    def _text(self, parts: Sequence[tuple[str, float]]) -> Encoded:
        ids = [self.begin] if self.begin is not None else []
        weights = [0.0] * len(ids)
        for text, weight in parts:
            more = self.tokenize(text)
            ids += more
            weights += [weight] * len(more)
        if self.end is not None and ids and ids[-1] not in self.specials:
            ids.append(self.end)
            weights.append(weights[-1])
        return _encoded(ids, weights)

    def _plain_pair(self, record: ExampleRecord) -> Encoded:
        """Write a pair for a model without a template: the prompt, a line end, the answer."""
        if record.kind is Kind.CHAT:
            raise UsageError(
                "the model has no chat template, so it cannot be tuned with conversations",
                "give it one with --chat-template, or write pairs of prompt and completion",
            )
        *asked, answer = [str(one.get("content", "")) for one in record.messages]
        prompt = "\n".join(asked)
        prompt += "" if prompt[-1:].isspace() or answer[:1].isspace() else "\n"
        return self._text([(prompt, self.prompt_weight), (answer, 1.0)])

    def _chat(self, chat: ChatText, record: ExampleRecord) -> Iterator[Encoded]:
        messages, tools = record.messages, record.tools

        def ids_of(n: int, *, asks: bool = False) -> list[int]:
            return self._written(chat.write(messages[:n], tools, asks=asks)) if n else []

        whole = ids_of(len(messages))
        answers = [n for n, one in enumerate(messages) if one.get("role") == "assistant"]
        spans: list[tuple[int, int]] = []
        alone: list[Encoded] = []
        for n in answers:
            asked, answered = ids_of(n, asks=True), ids_of(n + 1)
            span = _common(asked, answered), len(answered)
            alone.append(self._weighted(answered, [span]))
            kept = _common(answered, whole)
            if kept >= len(answered) - 1:  # the last may merge with what follows
                spans.append((span[0], kept))
        if len(spans) == len(answers):
            yield self._weighted(whole, spans)
        else:
            yield from alone

    def _written(self, text: str) -> list[int]:
        ids = self.tokenize(text)
        if self.begin is not None and ids[:1] != [self.begin]:
            return [self.begin, *ids]
        return ids

    def _weighted(self, ids: list[int], spans: Sequence[tuple[int, int]]) -> Encoded:
        weights = [self.prompt_weight] * len(ids)
        for start, stop in spans:
            ended = next(
                (i for i in range(stop - 1, start - 1, -1) if ids[i] in self.ends), stop - 1
            )
            weights[start : ended + 1] = [1.0] * (ended + 1 - start)
        return _encoded(ids, weights)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two texts begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _encoded(ids: list[int], weights: list[float]) -> Encoded:
    return Encoded(ids, [0.0, *weights[1:]] if weights else [])
