"""Fills in the middle, with the tokens by which some models were taught it.

Knows those tokens, and where other files stand. Refuses to know how an answer is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dure.errors import ParameterError
from dure.serve.served_model import ServedModel

__all__ = ["OtherFile", "with_suffix"]


@dataclass(frozen=True)
class OtherFile:
    """Another file of the same project, which the model reads before."""

    text: str
    name: str = ""


async def with_suffix(
    model: ServedModel,
    prompt: list[int],
    suffix: str,
    *,
    files: Sequence[OtherFile] = (),
    param: str = "suffix",
) -> list[int]:
    """Return a prompt after which the model writes what comes between `prompt` and `suffix`.

    Raises ParameterError, which names param, if the model was not taught it.
    """
    marks = [_mark(model, name) for name in ("pre", "suf", "mid")]
    if min(marks) < 0:
        raise ParameterError(param, f"{param}: this model was not taught to fill in the middle")
    before, after, middle = marks
    bos = await model.tokenize("", add_bos=True)  # if the model wants one, it stays the first
    n = len(bos) if prompt[: len(bos)] == bos else 0
    tokens = await model.tokenize(suffix, add_bos=False)
    others = await _files(model, files)
    return [*prompt[:n], *others, before, *prompt[n:], after, *tokens, middle]


async def _files(model: ServedModel, files: Sequence[OtherFile]) -> list[int]:
    """Return the files as the model was taught to read a project, or as text if it was not."""
    if not files:
        return []
    project, file_mark = _mark(model, "rep"), _mark(model, "sep")
    tokens: list[int] = []
    if project >= 0:
        tokens += [project, *await model.tokenize("project\n", add_bos=False)]
    for file in files:
        if file_mark >= 0:
            name = await model.tokenize(f"{file.name or 'file'}\n", add_bos=False)
            tokens += [file_mark, *name]
        else:
            tokens += await model.tokenize("\n\n--- snippet ---\n\n", add_bos=False)
        tokens += await model.tokenize(file.text, add_bos=False)
    if file_mark >= 0:
        tokens += [file_mark, *await model.tokenize("this\n", add_bos=False)]
    return tokens


def _mark(model: ServedModel, name: str) -> int:
    import llama_cpp.llama_cpp as lib

    return int(getattr(lib, f"llama_vocab_fim_{name}")(model.vocabulary.pointer))
