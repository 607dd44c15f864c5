"""A model in a Hugging Face folder, as transformers loads it: never code from the folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dure.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["config_of", "ends_of", "fingerprint_of", "is_meant", "model_of", "tokenizer_of"]

_CURE = "get the folder again, with config.json, the tokenizer's files and the safetensors"


def is_meant(path: Path) -> bool:
    """Return whether a path is such a folder."""
    return (path / "config.json").is_file()


def config_of(path: Path) -> PretrainedConfig:
    """Return the configuration. Raises ModelError."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path / 'config.json'} cannot be used: {_first_line(error)}", _CURE
        ) from error


def tokenizer_of(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer. Raises ModelError."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # tokenizers raises plain Exception for a damaged file
        raise ModelError(
            f"the tokenizer of {path} cannot be used: {_first_line(error)}", _CURE
        ) from error


def model_of(path: Path, dtype: torch.dtype | None) -> PreTrainedModel:
    """Return the model with its weights. Raises ModelError; MemoryError passes."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    kind: Any = dtype or "auto"
    try:
        return AutoModelForCausalLM.from_pretrained(
            path, dtype=kind, trust_remote_code=False, attn_implementation="sdpa"
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"the weights of {path} cannot be used: {_first_line(error)}", _CURE
        ) from error


def ends_of(path: Path) -> list[int]:
    """Return the tokens by which generating ends, none if the folder does not say."""
    from transformers import GenerationConfig

    try:
        found = GenerationConfig.from_pretrained(path, local_files_only=True).eos_token_id
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) else [found] if found is not None else []


def fingerprint_of(path: Path) -> str:
    """Return what tells the folder's model from others, without reading its weights."""
    facts = hashlib.sha256((path / "config.json").read_bytes())
    for file in sorted(path.glob("*.safetensors")):
        facts.update(f"{file.name} {file.stat().st_size}\n".encode())
    return facts.hexdigest()[:16]


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
