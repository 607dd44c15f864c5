"""Asks a model the questions of a task, and counts right answers as lm-eval does.

Of choices the likeliest is taken, by its log-probability (`acc`), and by that for each character
(`acc_norm`). An answer in words is what the model writes with the likeliest token each time, up to the
first text that ends it; it must be the target, but for blanks around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dure.engine.executor import Batch, Executor
from dure.engine.kv import Clear
from dure.evaluate.logits import log_sum_exp, rows_of
from dure.evaluate.statistics import Estimate, proportion
from dure.evaluate.tasks import ChoiceQuestion, OpenQuestion, TaskFile
from dure.generate.request import Sampling
from dure.generate.session import Session
from dure.model.vocabulary import Vocabulary

__all__ = ["PreparedTask", "TaskScore", "prepared_task"]

Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True)
class TaskScore:
    """Right answers. by_length: with log-probabilities for each character; None if nothing has choices."""

    name: str
    n_questions: int
    right: Estimate
    by_length: Estimate | None


@dataclass(frozen=True)
class _Ending:
    """A choice after its context, as tokens: those from n_context on are scored.

    length: of the choice's text, without the blank before it.
    """

    tokens: list[int]
    n_context: int
    length: int


_Question = tuple[ChoiceQuestion | OpenQuestion, list[_Ending], list[int]]
"""A question with the endings of its choices, or the tokens of its prompt."""


@dataclass(frozen=True)
class PreparedTask:
    """A task's questions as tokens."""

    name: str
    questions: Sequence[_Question]

    @property
    def n_ctx(self) -> int:
        """The context that the longest question needs with its answer."""
        return max(
            question.most + len(prompt)
            if isinstance(question, OpenQuestion)
            else max(len(ending.tokens) for ending in endings)
            for question, endings, prompt in self.questions
        )

    def score(
        self,
        executor: Executor,
        vocabulary: Vocabulary,
        progress: Callable[[float], None] = lambda _: None,
    ) -> TaskScore:
        """Ask all questions. The executor's KV cache may hold anything."""
        right: list[bool] = []
        by_length: list[bool] = []
        session: Session | None = None
        for question, endings, prompt in self._choices_first():
            if isinstance(question, ChoiceQuestion):
                told = [
                    _likelihood(executor, one, known) for one, known in _known(executor, endings)
                ]
                right.append(_chosen(told) in question.gold if len(told) > 1 else told[0][1])
                lengths = [
                    (x / ending.length, greedy)
                    for (x, greedy), ending in zip(told, endings, strict=True)
                ]
                by_length.append(_chosen(lengths) in question.gold if len(told) > 1 else told[0][1])
            else:
                session = session or _session(executor, vocabulary)
                answer = _answer(session, question, prompt)
                right.append(answer.strip() in {target.strip() for target in question.targets})
            progress(len(right) / len(self.questions))
        return TaskScore(
            self.name,
            len(right),
            proportion(sum(right), len(right)),
            proportion(sum(by_length), len(by_length)) if by_length else None,
        )

    def _choices_first(
        self,
    ) -> list[_Question]:
        return sorted(self.questions, key=lambda one: isinstance(one[0], OpenQuestion))


def prepared_task(
    task: TaskFile, vocabulary: Vocabulary, tokenize: Tokenize, most: int
) -> PreparedTask:
    """Tokenize a task's questions. most: tokens that the model can read; of longer ones the end is kept."""
    opening = vocabulary.opening
    questions: list[_Question] = []
    for question in task.questions:
        if isinstance(question, OpenQuestion):
            prompt = tokenize(question.prompt)[-max(1, most - question.most) :]
            questions.append((question, list[_Ending](), prompt))
        else:
            endings = [_ending(*pair, tokenize, opening, most) for pair in question.pairs]
            questions.append((question, endings, list[int]()))
    return PreparedTask(task.name, questions)


def _ending(context: str, end: str, tokenize: Tokenize, opening: int, most: int) -> _Ending:
    """Return a choice after its context as tokens. Source: lm-eval, `TemplateLM._encode_pair`.

    opening: stands before the choice if nothing else does, since nothing predicts a first token.
    """
    tokens, n_context = tokenize(context + end), len(tokenize(context.rstrip()))
    if not n_context:
        tokens, n_context = [opening, *tokens], 1
    n_cut = max(0, len(tokens) - most)
    n_context = max(1, min(n_context, len(tokens) - 1) - n_cut)
    return _Ending(tokens[n_cut:], n_context, max(1, len(end.removeprefix(" "))))


def _known(executor: Executor, endings: Sequence[_Ending]) -> Iterator[tuple[_Ending, int]]:
    """Yield each ending with how many of its tokens the KV cache still holds from the one before."""
    keeps_all = executor.info.can_forget and not executor.info.n_window
    before: list[int] = []
    for ending in endings:
        known = 0
        while keeps_all and known < min(len(before), ending.n_context - 1):
            if before[known] != ending.tokens[known]:
                break
            known += 1
        yield ending, known
        before = ending.tokens[:-1]


def _likelihood(executor: Executor, ending: _Ending, known: int) -> tuple[float, bool]:
    """Return a choice's log-probability, and whether each of its tokens is the likeliest."""
    tokens = np.array(ending.tokens, np.int32)
    total, is_greedy = 0.0, True
    rows = rows_of(executor, tokens, ending.n_context - 1, known=known)
    for token, (top, logits) in zip(ending.tokens[ending.n_context :], rows, strict=True):
        total += float(logits[token]) - log_sum_exp(logits)
        is_greedy = is_greedy and int(top.ids[0]) == token
    return total, is_greedy


def _chosen(told: Sequence[tuple[float, bool]]) -> int:
    return max(range(len(told)), key=lambda i: told[i][0])


def _session(executor: Executor, vocabulary: Vocabulary) -> Session:
    nothing = np.zeros(0, np.int32)
    executor.step(Batch(nothing, nothing, nothing, kv=[Clear()]))
    return Session(executor, vocabulary)


def _answer(session: Session, question: OpenQuestion, prompt: list[int]) -> str:
    text = ""
    for piece in session.answer(prompt, Sampling(temperature=0), max_tokens=question.most):
        text += piece.text
        ends = [at for at in map(text.find, question.until) if at >= 0]
        if ends:
            return text[: min(ends)]
    return text
