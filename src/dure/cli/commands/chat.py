"""`dure chat`: turn by turn, with the history kept in the KV cache."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Annotated

import typer

from dure.cli.terminal.console import errors, print_error, write
from dure.cli.terminal.interrupt import Interrupt
from dure.cli.terminal.model_argument import resolve_draft, resolve_model
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.parameters import (
    DraftFrom,
    MaxTokens,
    Model,
    Pull,
    Running,
    SamplingOptions,
)
from dure.cli.terminal.running_model import guesses, running_model
from dure.errors import UsageError
from dure.generate.request import Sampling
from dure.generate.session import Session
from dure.generate.speculative.proposer import Draft
from dure.model.vocabulary import Vocabulary

__all__ = ["chat"]

HELP = "Ctrl-C stops an answer, /clear forgets the conversation, /exit or Ctrl-D ends."
ANSWER_ROOM = 0.25  # of the context, kept free when old turns are forgotten


@expanded
def chat(
    model: Model,
    *,
    running: Running,
    draft: DraftFrom = Draft.LOOKUP,
    sampling: SamplingOptions,
    max_tokens: MaxTokens = None,
    system: Annotated[
        str | None, typer.Option(help="A system message before the conversation.")
    ] = None,
    pull: Pull = False,
) -> None:
    """Talk with a model. Ctrl-C stops an answer; /clear forgets; Ctrl-D or /exit ends.

    Example: dure chat models/dure-demo.gguf --ranks 2
    """
    chosen_by = sampling.sampling()
    options = running.options()
    file = resolve_model(model, may_pull=True, pull_now=pull)
    draft = resolve_draft(draft, pull_now=pull)
    with ExitStack() as stack, running_model(file, options) as (gguf, executor):
        vocabulary = Vocabulary(gguf)
        if not vocabulary.has_chat_template:
            raise UsageError(
                f"{file.name} has no chat template: use `dure run --raw` to continue text"
            )
        guessing = stack.enter_context(guesses(draft, gguf, vocabulary, options, executor))
        session = Session(executor, vocabulary, guessing)
        n_ctx = executor.info.n_ctx
        conversation = _Conversation(session, n_ctx, vocabulary, chosen_by, max_tokens, system)
        if sys.stdin.isatty():
            errors.print(f"{file.name}. {HELP}", markup=False)
        while (line := _read_line()) is not None:
            if line.strip() == "/clear":
                conversation.clear()
            elif line.strip() == "/help":
                errors.print(HELP)
            elif line.strip():
                conversation.turn(line)


def _read_line() -> str | None:
    """The user's next line, or None at the end. Ctrl-C at the prompt begins a new line."""
    while True:
        try:
            line = input(">>> " if sys.stdin.isatty() else "")
        except EOFError:
            return None
        except KeyboardInterrupt:
            errors.print("\n(Ctrl-D or /exit ends)")
            continue
        return None if line.strip() == "/exit" else line


class _Conversation:
    """The messages so far. A turn that was stopped stays in the history as far as it came."""

    def __init__(
        self,
        session: Session,
        n_ctx: int,
        vocabulary: Vocabulary,
        sampling: Sampling,
        max_tokens: int | None,
        system: str | None,
    ) -> None:
        self._session, self._vocabulary = session, vocabulary
        self._sampling, self._max_tokens = sampling, max_tokens
        self._limit = int(n_ctx * (1 - ANSWER_ROOM))
        self._system = [{"role": "system", "content": system}] if system is not None else []
        self._turns: list[dict[str, str]] = []

    def clear(self) -> None:
        """Forget all turns."""
        self._turns.clear()

    def turn(self, line: str) -> None:
        """Answer one line of the user."""
        self._turns.append({"role": "user", "content": line})
        answer = ""
        try:
            with Interrupt() as interrupt:
                for piece in self._session.answer(
                    self._prompt(),
                    self._sampling,
                    max_tokens=self._max_tokens,
                    cancelled=interrupt.came,
                ):
                    answer += piece.text
                    write(piece.text)
        except UsageError as error:  # this turn does not fit; the program and the rest go on
            self._turns.pop()
            print_error(error)
            return
        write("\n")
        if self._session.finish == "cancelled":
            errors.print("(stopped)")
        if self._session.finish == "length":
            errors.print("(the answer was cut off by its limit)")
        self._turns.append({"role": "assistant", "content": answer})

    def _prompt(self) -> list[int]:
        """The conversation's tokens; the oldest turns are forgotten where it grows too long."""
        while True:
            tokens = self._vocabulary.chat_prompt([*self._system, *self._turns])
            if len(tokens) <= self._limit or len(self._turns) <= 1:
                return tokens
            del self._turns[:2]
            errors.print("(the context is full: the oldest turn was forgotten)")
