"""Chooses the tokens that follow a step; what a grammar makes slow is done in threads of its own.

llama.cpp reads a grammar, and compares it with candidates, for as long as its writer wants. So the loop
does not wait for it: an answer whose tokens are still being chosen is left out of the next steps.
Knows what must be done in the loop's thread, and what need not. Refuses to know steps and sequences.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from dure.engine.executor import Floats, TopK
from dure.errors import ModelError
from dure.generate.request import Request, Token
from dure.generate.sampling import GrammarEnd, Sampler

__all__ = ["Choice", "Choose", "Chosen", "SlowWork", "Work", "chosen"]

MOST_THREADS = 4


@dataclass
class Chosen:
    """The tokens that follow a step. n_accepted: drafts among them.

    is_end: no token may follow these; end_token: the one that ended the answer. error: the choice failed.
    """

    tokens: list[Token] = field(default_factory=list)
    n_accepted: int = 0
    is_end: bool = False
    end_token: int | None = None
    error: ModelError | None = None


Choose = Callable[[Callable[[int], Floats]], Chosen]
"""Chooses an answer's tokens. Its argument returns all logits of one of the answer's rows."""


def chosen(
    request: Request,
    sampler: Sampler,
    rows: Sequence[TopK],
    drafts: Sequence[int],
    is_end: Callable[[Request, int], bool],
    logits: Callable[[int], Floats],
) -> Chosen:
    """Choose the next token, and one more after each draft that is the token chosen.

    rows: the top logits after the last token and after each draft; logits: returns all of a row.
    """
    result = Chosen()
    for i, top in enumerate(rows):
        try:
            token = sampler.choose(top, lambda i=i: logits(i))  # type: ignore[misc]
        except GrammarEnd:
            result.is_end = True
            break
        except ModelError as error:
            result.error = error
            break
        if is_end(request, token):
            result.is_end, result.end_token = True, token
            break
        sampler.accept(token)
        event = _event(request, token, sampler, top, lambda i=i: logits(i))  # type: ignore[misc]
        result.tokens.append(event)
        if tuple(drafts[i : i + 1]) != (token,):
            break
        result.n_accepted += 1
    return result


def _event(
    request: Request, token: int, sampler: Sampler, top: TopK, logits: Callable[[], Floats]
) -> Token:
    if request.n_logprobs is None:
        return Token(request.id, token)
    if request.post_sampling:
        drawn = sampler.drawn_from()
        return Token(request.id, token, dict(drawn)[token], drawn[: request.n_logprobs])
    ids, logprobs = top.ids.tolist(), (top.logits - top.log_sum_exp).tolist()
    is_top = token in ids  # else it was chosen from the whole vocabulary
    logprob = logprobs[ids.index(token)] if is_top else float(logits()[token]) - top.log_sum_exp
    best = tuple(zip(ids, logprobs, strict=True))[: request.n_logprobs]
    return Token(request.id, token, logprob, best)


class Work:
    """Something that a thread does for an answer. done: what the loop does with its result."""

    def __init__(self, do: Callable[[], Any], done: Callable[[Future[Any]], None]) -> None:
        self.do, self.done = do, done

    def provide(self) -> None:
        """Hand over what only the loop's thread can get, now that it cannot get it later."""


class Choice(Work):
    """The choice of an answer's tokens after n_rows rows. logits: returns all of a row of the last step."""

    def __init__(
        self,
        choose: Choose,
        logits: Callable[[int], Floats],
        n_rows: int,
        ask: Callable[[Callable[[], None]], None],
        done: Callable[[Future[Chosen]], None],
    ) -> None:
        super().__init__(lambda: choose(self._all), done)
        self._logits, self._ask = logits, ask
        self._rows: list[Future[Floats]] = [Future() for _ in range(n_rows)]

    def provide(self) -> None:
        """Hand over the logits of every row, which the next step replaces."""
        for row in range(len(self._rows)):
            self._give(row)

    def _all(self, row: int) -> Floats:
        """Return all logits of a row, which the loop's thread must fetch."""
        if not self._rows[row].done():
            self._ask(lambda: self._give(row))
        return self._rows[row].result()

    def _give(self, row: int) -> None:
        if self._rows[row].done():
            return
        try:
            self._rows[row].set_result(self._logits(row))
        except BaseException as error:  # the thread must not wait for ever
            self._rows[row].set_exception(error)
            raise


class SlowWork:
    """What threads do for answers. The loop's thread calls every method but `ask`."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1), "grammar")
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._works: set[Work] = set()

    def __len__(self) -> int:
        return len(self._works)

    def begin(self, work: Work) -> None:
        """Let a thread do some work."""
        self._works.add(work)
        future = self._threads.submit(work.do)
        future.add_done_callback(lambda future: self.ask(lambda: self._finish(work, future)))

    def ask(self, call: Callable[[], None]) -> None:
        """Have the loop's thread call something, soon."""
        self._calls.put(call)

    def advance(self, wait_s: float = 0.0) -> None:
        """Take in what is done and do what is asked; wait for that, until all is done, up to wait_s."""
        until = time.perf_counter() + wait_s
        while self._works:
            left = until - time.perf_counter()
            try:
                call = self._calls.get(timeout=left) if left > 0 else self._calls.get_nowait()
            except queue.Empty:
                return
            call()

    def provide(self) -> None:
        """Hand over, to all that is not done, what the next step replaces."""
        for work in self._works:
            work.provide()

    def _finish(self, work: Work, future: Future[Any]) -> None:
        self._works.discard(work)
        work.done(future)
