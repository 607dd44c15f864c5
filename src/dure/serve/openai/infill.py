"""Fills in the middle, with the tokens by which some models were taught it."""

from __future__ import annotations

from dure.errors import ParameterError
from dure.serve.served_model import ServedModel

__all__ = ["with_suffix"]


async def with_suffix(model: ServedModel, prompt: list[int], suffix: str) -> list[int]:
    """Return a prompt after which the model writes what comes between `prompt` and `suffix`.

    Raises ParameterError if the model was not taught it.
    """
    before, after, middle = _marks(model)
    bos = await model.tokenize("", add_bos=True)  # if the model wants one, it stays the first
    n = len(bos) if prompt[: len(bos)] == bos else 0
    tokens = await model.tokenize(suffix, add_bos=False)
    return [*prompt[:n], before, *prompt[n:], after, *tokens, middle]


def _marks(model: ServedModel) -> tuple[int, int, int]:
    import llama_cpp.llama_cpp as lib

    names = ("pre", "suf", "mid")
    marks = [getattr(lib, f"llama_vocab_fim_{n}")(model.vocabulary.pointer) for n in names]
    if min(marks) < 0:
        raise ParameterError("suffix", "suffix: this model was not taught to fill in the middle")
    before, after, middle = marks
    return before, after, middle
