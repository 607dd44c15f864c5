"""`dure chat`: answers turn by turn, with the history in the KV cache."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from typing import Annotated

import typer

from dure.chat.format import template_error
from dure.chat.reading import prepared_chat
from dure.chat.turn import ChatTurn, Conversations
from dure.cli.terminal.answer_text import AnswerText
from dure.cli.terminal.console import errors, print_error, write
from dure.cli.terminal.interrupt import Interrupt
from dure.cli.terminal.line_editor import line_reader
from dure.cli.terminal.model_argument import resolve_draft, resolve_model
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.parameters import (
    DraftFrom,
    MaxTokens,
    Model,
    Pull,
    Running,
    SamplingOptions,
    TemplateFile,
    Thinking,
)
from dure.cli.terminal.running_model import proposer, reading, running_model
from dure.errors import UsageError
from dure.generate.file_sampling import file_sampling
from dure.generate.request import Sampling
from dure.generate.session import Session
from dure.generate.speculative.proposer import Draft
from dure.model.gguf import open_gguf

__all__ = ["chat"]

SUMMARY = "Ctrl-C stops an answer, /help lists the commands, Ctrl-D ends."
HELP = """\
/clear    forget the conversation
/help     show this
/exit     end, like Ctrl-D
A message that begins with a space is no command, and a paste of many lines is one message.
Ctrl-C stops an answer. Arrow up recalls what you typed, in earlier chats too."""
COMMANDS = ("/clear", "/help", "/exit")
_LIKE_COMMAND = re.compile(r"(?i)/[a-z?]+( .*)?")  # on one line; a path has another slash
ANSWER_ROOM = 0.25  # part of the context that is freed for the answer when old turns are forgotten


@expanded
def chat(
    model: Model,
    *,
    running: Running,
    draft: DraftFrom = Draft.LOOKUP,
    template: TemplateFile,
    sampling: SamplingOptions,
    think: Thinking = "auto",
    max_tokens: MaxTokens = None,
    system: Annotated[
        str | None, typer.Option(help="System message before the conversation.")
    ] = None,
    pull: Pull = False,
) -> None:
    """Chat with a model. Ctrl-C stops an answer; /help lists the commands; Ctrl-D or /exit ends.

    Example: dure chat models/dure-demo.gguf --ranks 2
    """
    sampling.check()
    own_template = template.template_text()
    options = running.options("chat", model)
    file = resolve_model(model, may_pull=True, pull_now=pull)
    with open_gguf(file) as header:
        request_sampling = sampling.sampling(file_sampling(header))
    draft = resolve_draft(draft, pull_now=pull)
    with (
        reading(file, options, template=own_template) as (vocabulary, texts),
        ExitStack() as stack,
        running_model(file, options) as (gguf, executor),
    ):
        if not (own_template or vocabulary.has_chat_template):
            raise template_error(vocabulary.name)
        drafts = stack.enter_context(proposer(draft, gguf, vocabulary, options, executor))
        session = Session(executor, vocabulary, drafts, options.adapters)
        n_ctx = executor.info.n_ctx
        conversation = _Conversation(
            session,
            n_ctx,
            Conversations(vocabulary, lambda task: texts.call(prepared_chat, task), think),
            request_sampling,
            max_tokens,
            system,
        )
        if sys.stdin.isatty():
            errors.print(f"{file.name}. {SUMMARY}", markup=False)
        for text in _texts():
            match text.rstrip():
                case "/clear":
                    conversation.clear()
                    _say("the conversation is forgotten")
                case "/help":
                    errors.print(HELP, markup=False)
                case "":
                    pass
                case unknown if sys.stdin.isatty() and _LIKE_COMMAND.fullmatch(unknown):
                    _say(_no_command(unknown.split()[0]))
                case _:
                    conversation.turn(text)


def _texts() -> Iterator[str]:
    """Yield each message of the user until the end. Ctrl-C at the prompt clears the line."""
    read = line_reader()
    while True:
        try:
            text = read()
        except EOFError:
            return
        except KeyboardInterrupt:
            errors.print("(Ctrl-D or /exit ends)", markup=False)
            continue
        if text.rstrip() == "/exit":
            return
        yield text


def _no_command(word: str) -> str:
    near = get_close_matches(word, COMMANDS, n=1)
    meant = f", did you mean {near[0]}?" if near else "."
    there = f"{', '.join(COMMANDS[:-1])} and {COMMANDS[-1]}"
    return f"there is no command {word}{meant} There are {there}; begin with a space to send it"


def _say(text: str) -> None:
    """Reply to a command, on a terminal only: a pipe gets answers and nothing else."""
    if sys.stdin.isatty():
        errors.print(f"({text})", markup=False)


class _Conversation:
    """The messages so far. The history keeps a stopped answer as far as it was written."""

    def __init__(
        self,
        session: Session,
        n_ctx: int,
        conversations: Conversations,
        sampling: Sampling,
        max_tokens: int | None,
        system: str | None,
    ) -> None:
        self._session, self._conversations = session, conversations
        self._sampling, self._max_tokens = sampling, max_tokens
        self._limit = int(n_ctx * (1 - ANSWER_ROOM))
        self._system = [{"role": "system", "content": system}] if system is not None else []
        self._turns: list[dict[str, str]] = []
        self._told: set[str] = set()

    def clear(self) -> None:
        """Forget all turns."""
        self._turns.clear()

    def turn(self, line: str) -> None:
        """Answer one message of the user."""
        self._turns.append({"role": "user", "content": line})
        answer = AnswerText()
        try:
            with Interrupt() as interrupt:
                turn = self._fitting_turn()
                for piece in self._session.answer(
                    turn.prompt,
                    self._sampling,
                    max_tokens=self._max_tokens,
                    return_points=turn.return_points,
                    cancelled=interrupt.came,
                ):
                    if piece.token is not None:
                        answer.add(turn.feed(piece.token))
                answer.add(turn.finish())
        except UsageError as error:  # drop this turn; the conversation goes on
            self._turns.pop()
            print_error(error)
            return
        write("\n")
        if self._session.finish == "cancelled":
            errors.print("(stopped)")
        if self._session.finish == "length":
            errors.print("(the answer was cut off by its limit)")
        self._turns.append({"role": "assistant", "content": answer.content})

    def _tell_once(self, reasons: Sequence[str]) -> None:
        for reason in reasons:
            if reason not in self._told:
                self._told.add(reason)
                errors.print(f"({reason})", markup=False)

    def _fitting_turn(self) -> ChatTurn:
        """Return the next turn; forget the oldest ones if the conversation has grown too long."""
        while True:
            turn = self._conversations.turn([*self._system, *self._turns])
            self._tell_once(turn.unmet)
            if len(turn.prompt) <= self._limit or len(self._turns) <= 1:
                return turn
            del self._turns[:2]
            errors.print("(the context is full: the oldest turn was forgotten)")
