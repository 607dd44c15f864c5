"""`dure run`: answers one prompt."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from dure.chat.reading import TextTools, prepared_chat, tokens_of
from dure.chat.thinking import Think
from dure.chat.turn import ChatTurn, Conversations
from dure.cli.terminal.answer_text import AnswerText
from dure.cli.terminal.console import errors, print_json, print_warning, write
from dure.cli.terminal.interrupt import Interrupt
from dure.cli.terminal.model_argument import resolve_draft, resolve_model
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.parameters import (
    DraftFrom,
    Json,
    MaxTokens,
    Model,
    Pull,
    Running,
    SamplingOptions,
    TemplateFile,
    Thinking,
)
from dure.cli.terminal.running_model import proposer, reading, running_model
from dure.engine.executor import RankFacts
from dure.errors import EngineError, UsageError
from dure.generate.file_sampling import file_sampling
from dure.generate.session import AnswerPiece, Session
from dure.generate.speculative.proposer import Draft
from dure.hardware.probe import probe
from dure.isolation import Isolation
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from dure.sizes import bytes_text

__all__ = ["run"]

PIPE_S = 1.0  # until a person is told what is waited for


@expanded
def run(
    model: Model,
    prompt: Annotated[
        str | None,
        typer.Argument(help="Text to answer. What is piped in comes before it, or instead of it."),
    ] = None,
    *,
    running: Running,
    draft: DraftFrom = Draft.LOOKUP,
    template: TemplateFile,
    sampling: SamplingOptions,
    think: Thinking = "auto",
    max_tokens: MaxTokens = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text, without the chat template.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="System message before the prompt.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print speed and memory after the answer.")
    ] = False,
    pull: Pull = False,
    as_json: Json = False,
) -> None:
    """Write one answer, streaming, on one rank or cut over several.

    Example: dure run models/dure-demo.gguf "Tell me a story about a goat." --ranks 2 --verbose

    Example: dure run qwen3:0.6b "What does this do?" < setup.py
    """
    sampling.check()
    own_template = template.template_text()
    options = running.options("run", model)
    file = resolve_model(model, may_pull=True, pull_now=pull, may_be_prompt=prompt is None)
    if raw and system is not None:
        raise UsageError("--system needs a chat template", "leave out --raw")
    with open_gguf(file) as header:
        request_sampling = sampling.sampling(file_sampling(header))
        text = _prompt(prompt)  # first check the file: nobody should type a prompt in vain
    draft = resolve_draft(draft, pull_now=pull)
    with (
        Interrupt() as interrupt,
        reading(file, options, chats=not raw, template=own_template) as (vocabulary, texts),
        ExitStack() as stack,
        running_model(file, options) as (gguf, executor),
    ):
        drafts = stack.enter_context(proposer(draft, gguf, vocabulary, options, executor))
        session = Session(executor, vocabulary, drafts, options.adapters)
        chats = not raw and _chats(vocabulary, own_template, system)
        turn = _turn(vocabulary, texts, text, system, think) if chats else None
        tokens = turn.prompt if turn else texts.call(tokens_of, text, False, True)
        answer = AnswerText(is_written=not as_json)
        pieces = session.answer(
            tokens, request_sampling, max_tokens=max_tokens, cancelled=interrupt.came
        )
        try:
            _read(pieces, turn, answer)
        except EngineError:
            write("\n" if answer.content and not as_json else "")  # the error gets its own line
            raise
        facts = executor.facts() if verbose or as_json else []
        transport = executor.info.transport
    if as_json:
        print_json(_as_json(answer, session, facts))
    else:
        write("\n")
    if verbose:
        _print_timings(session, facts, transport)
    if interrupt.came():
        raise typer.Exit(130)


def _prompt(prompt: str | None) -> str:
    """Return the text to answer: what is piped in, and then the prompt."""
    parts = [_piped() if prompt is not None else _typed(), prompt or ""]
    text = "\n\n".join(part for part in parts if part.strip())
    if not text:
        raise UsageError("the prompt is empty", "give some text, or pipe it in")
    return text


def _typed() -> str:
    if sys.stdin is None:  # the shell closed it
        return ""
    if sys.stdin.isatty():
        errors.print("type the prompt, then Ctrl-D:")
    return sys.stdin.read()


def _piped() -> str:
    """Return what a file or a pipe holds. Terminals and sockets, as of ssh, are not read."""
    if sys.stdin is None:
        return ""
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        return ""
    if not select.select([sys.stdin], [], [], PIPE_S)[0]:
        errors.print("reading standard input (`< /dev/null` leaves it out)")
    return sys.stdin.read()


def _chats(vocabulary: Vocabulary, template: str | None, system: str | None) -> bool:
    """Return whether a template makes a message of the prompt; tell if not. Raises UsageError."""
    if template or vocabulary.has_chat_template:
        return True
    if system is not None:
        raise UsageError(
            f"--system needs a chat template, and {vocabulary.name} has none",
            "--chat-template FILE gives it one",
        )
    print_warning(
        f"{vocabulary.name} has no chat template, so the prompt is continued: --chat-template FILE gives "
        "it one, --raw says that this is meant"
    )
    return False


def _turn(
    vocabulary: Vocabulary,
    texts: Isolation[TextTools],
    text: str,
    system: str | None,
    think: Think,
) -> ChatTurn:
    """Return the turn of the chat."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    conversations = Conversations(vocabulary, lambda task: texts.call(prepared_chat, task), think)
    turn = conversations.turn([*messages, {"role": "user", "content": text}])
    for reason in turn.unmet:
        errors.print(f"--think {think}: {reason}", markup=False)
    return turn


def _read(pieces: Iterable[AnswerPiece], turn: ChatTurn | None, answer: AnswerText) -> None:
    """Collect the answer as it comes; parse a chat's as a server does."""
    for piece in pieces:
        if turn is None:
            answer.add_text(piece.text)
        elif piece.token is not None:
            answer.add(turn.feed(piece.token))
    if turn is not None:
        answer.add(turn.finish())


def _figures_of(session: Session) -> dict[str, Any]:
    """Return an answer's figures as plain data; milliseconds per token are of decode steps."""
    timings = session.timings
    steps = max(1, timings.n_steps)
    other_s = max(0.0, timings.generate_s - timings.compute_s - timings.sync_s)
    return {
        "prompt_tokens": timings.prompt_tokens,
        "cached_tokens": timings.cached_tokens,
        "prompt_tokens_per_s": timings.prompt_per_s,
        "tokens": timings.tokens,
        "tokens_per_s": timings.generated_per_s,
        "drafted_tokens": timings.drafted,
        "accepted_tokens": timings.accepted,
        "per_token_ms": {
            "compute": 1e3 * timings.compute_s / steps,
            "sync": 1e3 * timings.sync_s / steps,
            "other": 1e3 * other_s / steps,
        },
        "bytes_sent_per_token": timings.bytes_sent / steps,
    }


def _as_json(answer: AnswerText, session: Session, facts: list[RankFacts]) -> dict[str, Any]:
    return {
        "text": answer.content,
        **({"reasoning": answer.reasoning} if answer.reasoning else {}),
        "finish": session.finish,
        "ranks": len(facts),
        **_figures_of(session),
        "peak_memory_bytes": [rank.peak_bytes for rank in facts],
    }


def _print_timings(session: Session, facts: list[RankFacts], transport: str) -> None:
    figures = _figures_of(session)
    token = figures["per_token_ms"]
    n_drafted = figures["drafted_tokens"]
    accepted = f"{figures['accepted_tokens']} of {n_drafted} draft tokens accepted"
    peaks = ", ".join(bytes_text(rank.peak_bytes) for rank in facts)
    errors.print(
        f"\nprompt      {figures['prompt_tokens']} tokens, "
        f"{figures['prompt_tokens_per_s']:.1f} tokens/s\n"
        f"generation  {figures['tokens']} tokens, {figures['tokens_per_s']:.1f} tokens/s, "
        f"{accepted if n_drafted else 'no draft tokens'}\n"
        f"per token   compute {token['compute']:.2f} ms, sync {token['sync']:.2f} ms, "
        f"other {token['other']:.2f} ms, {bytes_text(figures['bytes_sent_per_token'])} sent by each rank\n"
        f"peak memory {peaks}"
    )
    if transport:
        errors.print(f"exchange    {transport}", markup=False)
    if limits := probe().limits:
        errors.print(f"limits      {', '.join(limits)}", markup=False, soft_wrap=True)
