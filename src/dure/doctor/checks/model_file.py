"""Checks of a model's file."""

from __future__ import annotations

from collections.abc import Iterator

from dure.doctor.finding import Severity, Verdict, check, healthy, note, serious
from dure.doctor.model_file import ModelFile

__all__ = ["MODEL_CHECKS"]


@check(
    "vocabulary",
    "vocabulary",
    "A token without a row in the model's tables cannot be computed. Rows without a token are padding, "
    "which models of the Qwen family have: Distributed Llama warns of it, and it does no harm.",
    "n_tokens",
)
def vocabulary(model: ModelFile) -> Iterator[Verdict]:
    """Judge whether the tokenizer has as many tokens as the model has rows."""
    tokens, rows = model.n_tokens, model.n_rows
    if tokens is None or rows is None:
        return
    evidence = f"{tokens} tokens, {rows} rows in {model.name}"
    if tokens == rows:
        yield healthy("the tokenizer and the model fit", evidence)
    elif tokens < rows:
        cure = "nothing needs to be done, if the tokenizer is the model's own"
        yield note("the model has rows without a token", evidence, cure)
    else:
        cure = "get the model again; if it was converted, convert it with its own tokenizer"
        yield serious("the tokenizer has tokens that the model does not know", evidence, cure)


@check(
    "checksum",
    "checksum",
    "One wrong bit in a file of weights makes answers worse, and nobody notices.",
    "checksums",
)
def checksum(model: ModelFile) -> Iterator[Verdict]:
    """Judge whether a file is what it was when it was published."""
    for name, (expected, found) in model.checksums.items():
        if expected is None:
            evidence = f"{name} has no record: it was not pulled by dure"
            yield Verdict(
                Severity.UNREADABLE,
                "its checksum is not known",
                evidence,
                f"compare it with its publisher's: {found}",
            )
        elif expected == found:
            yield healthy("the file is what was published", f"{name}: {found[:16]}…")
        else:
            evidence = f"{name} is {found[:16]}…, and {expected[:16]}… was published"
            yield serious(
                "the file was changed, or is damaged", evidence, "`dure rm` it, and pull it again"
            )


MODEL_CHECKS = (vocabulary, checksum)
