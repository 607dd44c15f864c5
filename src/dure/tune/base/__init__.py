"""What a model is made from: its configuration, its tokenizer and its weights, as torch has them.

Each kind of source is a module. Refuses to know what becomes of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dure.errors import UsageError
from dure.tune.base import folder, gguf

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "TuneBase",
    "be_quiet",
    "config_of",
    "ends_of",
    "fingerprint_of",
    "load_base",
    "tokenizer_of",
]


class BaseSource(Protocol):
    """A kind of source: what each of its modules has."""

    def is_meant(self, path: Path) -> bool:
        """Return whether a path is such a source."""

    def config_of(self, path: Path) -> PretrainedConfig:
        """Return the configuration."""

    def tokenizer_of(self, path: Path) -> PreTrainedTokenizerBase:
        """Return the tokenizer."""

    def model_of(self, path: Path, dtype: torch.dtype | None) -> PreTrainedModel:
        """Return the model with its weights."""

    def ends_of(self, path: Path) -> list[int]:
        """Return the tokens by which generating ends."""

    def fingerprint_of(self, path: Path) -> str:
        """Return what tells the model from others."""


@dataclass(frozen=True)
class TuneBase:
    """A model that was loaded: where from, and what it is."""

    path: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def be_quiet() -> None:
    """Let transformers show no bars and no advice: what a user must know is told by errors."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def config_of(path: Path) -> PretrainedConfig:
    """Return a model's configuration, without its weights. Raises ModelError or UsageError."""
    return _source(path).config_of(path)


def tokenizer_of(path: Path) -> PreTrainedTokenizerBase:
    """Return a model's tokenizer, with its chat template. Raises ModelError or UsageError."""
    return _source(path).tokenizer_of(path)


def load_base(path: Path, dtype: torch.dtype | None = None) -> TuneBase:
    """Load a model into memory. dtype: of its weights; the file's own for None.

    Raises ModelError if it is damaged, UsageError if there is none.
    """
    source = _source(path)
    tokenizer = source.tokenizer_of(path)
    return TuneBase(path, source.model_of(path, dtype), tokenizer)


def ends_of(path: Path) -> list[int]:
    """Return the tokens by which the model's own settings say that an answer ends."""
    return _source(path).ends_of(path)


def fingerprint_of(path: Path) -> str:
    """Return what tells a model from others: a name of its files, their sizes and its configuration."""
    return _source(path).fingerprint_of(path)


def _source(path: Path) -> BaseSource:
    for source in (folder, gguf):
        if source.is_meant(path):
            return source
    raise UsageError(
        f"{path} is no model that can be tuned",
        "name a Hugging Face folder, with config.json and safetensors in it, or a GGUF file",
    )
