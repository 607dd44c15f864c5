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
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from dure.engine.executor import Floats, TopK
from dure.errors import BusyError, DureError, ModelError, UsageError
from dure.fair_threads import Call, FairThreads
from dure.generate.request import Request, Token
from dure.generate.sampling import GrammarEnd, Sampler

__all__ = ["TOKEN_S", "Choice", "Choose", "Chosen", "SlowWork", "Work", "chosen"]

TOKEN_S = 30.0  # that a grammar may take for a token
LATE_S = 2.0  # after which an answer does without its slot, if others wait
MOST_THREADS = 4  # for one owner
MOST_GIVEN_UP = 4  # threads that others are started for


@dataclass
class Chosen:
    """The tokens that follow a step. n_accepted: drafts among them.

    is_end: no token may follow these; end_token: the one that ended the answer. error: the choice failed.
    """

    tokens: list[Token] = field(default_factory=list)
    n_accepted: int = 0
    is_end: bool = False
    end_token: int | None = None
    error: DureError | None = None


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
    """Something that a thread does for n_tokens of an answer. done: what the loop does with its result."""

    def __init__(
        self,
        request: Request,
        do: Callable[[], Any],
        done: Callable[[Future[Any]], None],
        n_tokens: int = 1,
    ) -> None:
        self.request, self.do, self.done, self.n_tokens = request, do, done, n_tokens
        self.since = time.perf_counter()

    def provide(self) -> None:
        """Hand over what only the loop's thread can get, now that it cannot get it later."""


class Choice(Work):
    """The choice of an answer's tokens after n_rows rows. logits: returns all of a row of the last step."""

    def __init__(
        self,
        request: Request,
        choose: Choose,
        logits: Callable[[int], Floats],
        n_rows: int,
        ask: Callable[[Callable[[], None]], None],
        done: Callable[[Future[Chosen]], None],
    ) -> None:
        super().__init__(request, lambda: choose(self._all), done, n_rows)
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
    """What threads do for answers, in turns between owners. The loop's thread calls all but `ask`.

    token_s: how long a thread may take for a token, before its answer fails.
    """

    def __init__(self, token_s: float) -> None:
        most = min(MOST_THREADS, os.cpu_count() or 1)
        self._threads = FairThreads(most, "grammar", MOST_GIVEN_UP)
        self._token_s = token_s
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._works: dict[Work, Call[Any]] = {}

    def __len__(self) -> int:
        return len(self._works)

    def begin(self, work: Work) -> None:
        """Let a thread do some work."""
        call = self._works[work] = self._threads.submit(work.request.owner.name, work.do)
        call.add_done_callback(lambda future: self.ask(lambda: self._finish(work, future)))

    def cancel(self, request_id: str) -> None:
        """Drop the work for a request, if no thread has begun it."""
        for work, call in self._works.items():
            if work.request.id == request_id:
                call.cancel()

    def late(self) -> set[str]:
        """Return the ids of the requests that wait long for their tokens."""
        latest = time.perf_counter() - LATE_S
        return {work.request.id for work in self._works if work.since < latest}

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
                self._give_up()
                return
            call()

    def provide(self) -> None:
        """Hand over, to all that is not done, what the next step replaces."""
        for work in self._works:
            work.provide()

    def _give_up(self) -> None:
        """Fail what takes too long, and what waits for nothing but such."""
        now = time.perf_counter()
        for work, call in list(self._works.items()):
            is_late = call.began_at and now - call.began_at > self._token_s * work.n_tokens
            if is_late and not call.done():
                work.provide()  # its thread must not ask for it later
                self._threads.give_up(call)
                self._fail(work, _too_slow(self._token_s))
        if self._threads.is_stuck:
            for work, call in list(self._works.items()):
                if call.cancel():
                    self._fail(work, _no_thread())

    def _fail(self, work: Work, error: DureError) -> None:
        failed: Future[Any] = Future()
        failed.set_exception(error)
        self._finish(work, failed)

    def _finish(self, work: Work, future: Future[Any]) -> None:
        if self._works.pop(work, None) is not None:
            work.done(future)


def _too_slow(token_s: float) -> UsageError:
    return UsageError(
        f"following the grammar takes longer than {token_s:g} s for one token",
        "give a grammar, schema or tools that can go on in fewer ways at each place",
    )


def _no_thread() -> BusyError:
    return BusyError(
        "no thread is free to follow the grammar: those of other requests were too slow, and still run",
        "ask again later, or start the server again",
        retry_after_s=TOKEN_S,
    )
