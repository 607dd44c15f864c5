"""A result of tuning as a model to be written: whole, merged into its base, or an adapter beside it.

A base that is a GGUF keeps its own vocabulary, and an adapter is merged into its decoded weights: they are
quantized once, after.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dure.convert import adapters, huggingface
from dure.convert.decoding import decoded_model
from dure.convert.model import ConvertedModel, Metadata
from dure.errors import UsageError
from dure.model.ggml import GgmlType, type_named
from dure.model.gguf import open_gguf
from dure.model.gguf.values import one_line
from dure.tune.result.card import TuneCard

__all__ = ["ResultForm", "opened_base", "opened_result"]

_KEPT = ("tokenizer.", "general.sampling.")
Keys = dict[str, Any]


@dataclass(frozen=True)
class ResultForm:
    """What becomes of a result. type: of the matrices, F16 for None. merge: an adapter into its base."""

    type: GgmlType | None = None
    merge: bool = True
    name: str | None = None


@contextmanager
def opened_result(
    result: Path, base: Path | None, card: TuneCard, wanted: ResultForm | None = None
) -> Iterator[ConvertedModel]:
    """Open the folder of a model or of an adapter as a model to be written.

    base: the Hugging Face folder or the GGUF that was tuned, None for a new model. Raises UsageError if an
    adapter has no base, ModelError as an import does.
    """
    wanted = wanted or ResultForm()
    if adapters.is_adapter(result):
        with _adapter(result, base, wanted) as model:
            yield _named(model, card, wanted)
    else:
        type_ = wanted.type or type_named("F16")
        with huggingface.convert_folder(result, type_, _vocabulary(result, base)) as model:
            yield _named(model, card, wanted)


@contextmanager
def _adapter(result: Path, base: Path | None, wanted: ResultForm) -> Iterator[ConvertedModel]:
    if base is None:
        raise UsageError(
            f"{one_line(result.name)} is an adapter, and its base is not known", "name the base"
        )
    with opened_base(base, wanted) as model:
        facts = adapters.base_of(model)
        with adapters.opened_adapter(result, facts) as adapter:
            yield (
                adapters.merged_model(adapter, model)
                if wanted.merge
                else adapters.adapter_model(adapter, facts)
            )


@contextmanager
def opened_base(base: Path, wanted: ResultForm) -> Iterator[ConvertedModel]:
    """Open what is tuned as a model to be written: a result that is merged has its tensors."""
    type_ = wanted.type or type_named("F16")
    if huggingface.is_folder(base):
        with huggingface.convert_folder(base, type_) as model:
            yield model
        return
    with adapters.gguf_model(base) as model:
        yield decoded_model(model, type_) if wanted.merge else model


def _vocabulary(result: Path, base: Path | None) -> Metadata | None:
    """Return the vocabulary of the GGUF that was tuned, with the run's chat template; None without one."""
    if base is None or not base.is_file():
        return None
    with open_gguf(base) as gguf:
        kept = {key: one for key, one in gguf.metadata.items() if key.startswith(_KEPT)}
    return {**kept, **huggingface.template_keys(result)}


def _named(model: ConvertedModel, card: TuneCard, wanted: ResultForm) -> ConvertedModel:
    name: Keys = {"general.name": wanted.name} if wanted.name else {}
    return replace(model, metadata={**model.metadata, **card.metadata(), **name})
