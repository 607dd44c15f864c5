"""`dure imatrix`: gathers an importance matrix, by which a quantizer weighs errors."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from dure.chat.reading import prepared_chat, tokens_of
from dure.chat.turn import Conversations
from dure.cli.terminal.console import duration_text, errors, output, print_json, print_warning
from dure.cli.terminal.model_argument import resolve_model
from dure.cli.terminal.noted import noted
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.out_file import check_folder, check_not_there
from dure.cli.terminal.parameters import MODEL, Json, Model, Running, TemplateFile
from dure.cli.terminal.running_model import reading, running_model
from dure.cli.terminal.work_progress import token_bar
from dure.convert.importance import Importance, write_importance
from dure.engine.arrays import Ints
from dure.engine.executor import FullExecutor
from dure.evaluate.calibration import chat_tokens, chunks_of, text_tokens
from dure.evaluate.imatrix_progress import Begun, ProgressFile
from dure.evaluate.importance import gather_importance, n_unseen_experts
from dure.evaluate.openings import OPENINGS
from dure.evaluate.own_text import AT_ONCE, OWN_LENGTH, OwnText, own_length, own_prompts
from dure.model.gguf import GgufFile, open_gguf

__all__ = ["imatrix"]

VERSION = 1  # of what is gathered: raise it when the same command would gather something else
OWN_CHUNKS = 64


@expanded
def imatrix(
    model: Model,
    *,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Plain text to calibrate with; give it again for more files.",
            show_default="the model writes its own",
        ),
    ] = None,
    from_chats: Annotated[
        list[Path] | None,
        typer.Option(
            help="Chats to calibrate with, one JSON object with OpenAI's `messages` on each line.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write.", show_default="MODEL.imatrix.gguf"),
    ] = None,
    chunks: Annotated[
        int | None,
        typer.Option(
            help="Use this number of chunks.",
            show_default=f"all of the data; {OWN_CHUNKS} of the model's own",
        ),
    ] = None,
    ctx: Annotated[
        int, typer.Option("--ctx", "-c", help="Tokens of a chunk.", rich_help_panel=MODEL)
    ] = 512,
    force: Annotated[
        bool, typer.Option("--force", help="Begin anew, and replace the file if it is there.")
    ] = False,
    running: Running,
    template: TemplateFile,
    as_json: Json = False,
) -> None:
    """Gather which columns of each tensor matter, for quantizing, on one rank or cut over several.

    What was stopped goes on where it stood if the same command is given again.

    Example: dure imatrix models/dure-demo.gguf --data docs/architecture.md --ctx 128
    """
    file = resolve_model(model)
    target = out or Path(f"{file.name.removesuffix('.gguf')}.imatrix.gguf")
    check_folder(target)
    check_not_there(target, force=force)
    files = _Files(tuple(data or ()), tuple(from_chats or ()))
    own_template = template.template_text()
    with open_gguf(file) as header:
        length = ctx if files else _own_length(header, ctx)
    options = msgspec.structs.replace(
        running.options("imatrix", model, ctx=length, n_sequences=1 if files else AT_ONCE),
        gathers_inputs=True,
    )
    wants_chats = bool(from_chats) or not data
    with reading(file, options, chats=wants_chats, template=own_template) as (vocabulary, texts):
        conversations = Conversations(vocabulary, lambda task: texts.call(prepared_chat, task))
        words = files.tokens(lambda text: texts.call(tokens_of, text, False, True), conversations)
        given = chunks_of(words, ctx, vocabulary.begin, chunks) if files else None
        n_chunks = _own_chunks(chunks, ctx) if given is None else len(given)
        text = (
            [OPENINGS, own_template, length]
            if given is None
            else hashlib.sha256(given.tobytes()).hexdigest()
        )
        progress = ProgressFile(target, _identity(file, [n_chunks, ctx, text]))
        datasets = files.names or [f"text that {file.name} wrote"]
        begun = progress.load(anew=force) or Begun(Importance({}, datasets, 0, ctx))
        with noted("imatrix", file.name), running_model(file, options) as (gguf, executor):
            start = time.monotonic()
            if given is None:
                chats = bool(own_template) or vocabulary.has_chat_template
                prompt_of = own_prompts(conversations, vocabulary, chats=chats)
                writer = OwnText(executor, vocabulary, prompt_of, length, begun.texts)
                tokens = _written(writer, begun, progress, n_chunks * ctx)
                given = chunks_of(tokens, ctx, vocabulary.begin, n_chunks)
                begun = Begun(begun.importance, writer.texts)
            importance = _gathered(executor, given, begun, progress, gguf.tensors)
            took_s = time.monotonic() - start
    write_importance(target, importance)
    progress.delete()
    _report(target, importance, took_s, begun.importance.n_chunks, as_json=as_json)


@dataclass(frozen=True)
class _Files:
    """What the user gives to calibrate with."""

    data: tuple[Path, ...]
    chats: tuple[Path, ...]

    def __bool__(self) -> bool:
        return bool(self.data or self.chats)

    @property
    def names(self) -> list[str]:
        return [path.name for path in (*self.data, *self.chats)]

    def tokens(
        self, tokenize: Callable[[str], list[int]], conversations: Conversations
    ) -> list[int]:
        return text_tokens(tokenize, self.data) + chat_tokens(conversations, self.chats)


def _own_length(header: GgufFile, ctx: int) -> int:
    """Return the tokens of a text that the model writes: no more than it was trained for."""
    trained = header.int(f"{header.architecture}.context_length", OWN_LENGTH)
    return own_length(ctx, trained)


def _own_chunks(asked: int | None, ctx: int) -> int:
    chunks = OWN_CHUNKS if asked is None else asked
    chunks_of([0] * ctx, ctx, None, chunks)  # checks both numbers
    return chunks


def _identity(file: Path, text: list[Any]) -> str:
    """Return what identifies the model and all that its sums depend on."""
    with open_gguf(file) as gguf:
        facts = json.dumps([VERSION, gguf.fingerprint, text])
    return hashlib.sha256(facts.encode()).hexdigest()


def _written(writer: OwnText, begun: Begun, progress: ProgressFile, n_tokens: int) -> list[int]:
    """Have the model write its text, and write every finished text down."""
    with token_bar("the model writes its text", n_tokens, writer.n_tokens, "text") as show:
        return writer.write(
            n_tokens, lambda texts: progress.save(Begun(begun.importance, texts)), show
        )


def _gathered(
    executor: FullExecutor,
    chunks: Ints,
    begun: Begun,
    progress: ProgressFile,
    weights: Collection[str],
) -> Importance:
    """Gather the importance matrix, and write it down as far as it is done."""
    done = begun.importance.n_chunks
    if done:
        errors.print(f"{done} of {len(chunks)} chunks were done already")
    with token_bar("gathering", chunks.size, done * chunks.shape[1], "gathering") as show:
        return gather_importance(
            executor,
            chunks,
            begun.importance,
            weights,
            save=lambda importance: progress.save(Begun(importance, begun.texts)),
            progress=show,
        )


def _report(
    target: Path, importance: Importance, took_s: float, n_before: int, *, as_json: bool
) -> None:
    unseen = n_unseen_experts(importance)
    if unseen:
        print_warning(f"{unseen} experts got no token, and are weighed evenly: use more --chunks")
    n_tokens = importance.n_chunks * importance.chunk_size
    if as_json:
        print_json(
            {
                "file": str(target),
                "tensors": len(importance.squares),
                "chunks": importance.n_chunks,
                "chunk_size": importance.chunk_size,
                "tokens": n_tokens,
                "chunks_done_before": n_before,
                "seconds": took_s,
                "datasets": list(importance.datasets),
                "experts_without_tokens": unseen,
            }
        )
        return
    output.print(
        f"{target}: {len(importance.squares)} tensors, {n_tokens} tokens in "
        f"{importance.n_chunks} chunks, {duration_text(took_s)}",
        soft_wrap=True,
    )
