"""Finds the file of a MODEL argument: a path, a short name, `hf:…`, or a name of `dure ls`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer

from dure.cli.terminal.console import errors, printable
from dure.cli.terminal.pull_progress import noted_pull, saying_how_to_resume
from dure.errors import UsageError
from dure.generate.speculative.proposer import Draft
from dure.model.gguf import open_gguf
from dure.model.store import Library, Name, located
from dure.model.store.names import near_names

__all__ = ["resolve_draft", "resolve_model"]


def resolve_model(
    text: str, *, may_pull: bool = False, pull_now: bool = False, may_be_prompt: bool = False
) -> Path:
    """Return the file of a MODEL argument; of a split model its first part.

    A path comes first, then models on this machine. A missing model is pulled if the command `may_pull`:
    after asking on a terminal, or without asking if the user gave --pull (`pull_now`).
    may_be_prompt: the command takes a prompt behind the model, and got none.
    Raises UsageError, with the command to run, if the model is missing and is not pulled; otherwise as
    `dure.model.store.pull` does.
    """
    library = Library()
    try:
        name = located(text, library)
    except UsageError:
        if may_be_prompt and not near_names(text):
            raise _prompt_alone(text) from None
        raise
    if isinstance(name, Path):
        return name
    if may_pull and (pull_now or _agreed(text)):
        return _pulled(name, library)
    more = ", or add --pull" if may_pull else ""
    raise UsageError(f"{text} is not on this machine", f"run `dure pull {text}`{more}")


def resolve_draft(text: str, *, pull_now: bool = False) -> str:
    """Return the value of --draft: one of `Draft`, or the absolute path of a draft model."""
    if text in set(Draft):
        return text
    path = resolve_model(text, may_pull=True, pull_now=pull_now)
    with open_gguf(path):
        pass  # a file that is no model is an error at once
    return str(path.absolute())


def _prompt_alone(text: str) -> UsageError:
    command = f"dure run qwen3:0.6b {shlex.quote(text)}"
    return UsageError(
        f"{text}: there is no model of this name",
        f"if it is the prompt, name a model before it, as in `{command}`; `dure ls` shows those on this "
        "machine",
    )


def _agreed(text: str) -> bool:
    if not (sys.stdin is not None and sys.stdin.isatty() and errors.is_terminal):
        return False
    return typer.confirm(
        f"{printable(text)} is not on this machine. Pull it?", default=True, err=True
    )


def _pulled(name: Name, library: Library) -> Path:
    from dure.model.store.pull import pull

    with saying_how_to_resume(str(name)), noted_pull(str(name)) as progress:
        return pull(name, library, progress).model.path
