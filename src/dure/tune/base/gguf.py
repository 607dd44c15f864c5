"""A model in a GGUF, brought back to torch: what was trained elsewhere, quantized or not, is trained on.

Knows the file and its parts. Refuses to know how weights and vocabularies lie in it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from dure.model.gguf import GgufFile, open_gguf
from dure.model.vocabulary import Vocabulary
from dure.tune.base.gguf_tokenizer import torch_tokenizer
from dure.tune.base.gguf_weights import config_values, torch_model

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["config_of", "ends_of", "fingerprint_of", "is_meant", "model_of", "tokenizer_of"]


def is_meant(path: Path) -> bool:
    """Return whether a path is such a file."""
    return path.is_file() and path.suffix == ".gguf"


def config_of(path: Path) -> PretrainedConfig:
    """Return the configuration, as transformers has it. Raises ModelError."""
    from transformers import AutoConfig

    with open_gguf(path) as gguf:
        return AutoConfig.for_model(**config_values(gguf))


def tokenizer_of(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer, which divides text as llama.cpp does. Raises ModelError."""
    with open_gguf(path) as gguf:
        vocabulary = Vocabulary(gguf)
        try:
            return torch_tokenizer(gguf, vocabulary)
        finally:
            vocabulary.close()


def model_of(path: Path, dtype: torch.dtype | None) -> PreTrainedModel:
    """Return the model, every tensor decoded. dtype: None means BF16 if the file is so, else float32.

    Raises ModelError; MemoryError passes.
    """
    import torch

    with open_gguf(path) as gguf:
        own = torch.bfloat16 if _most_bytes(gguf) == "BF16" else torch.float32
        model = torch_model(gguf, dtype or own)
        model.generation_config.eos_token_id = _ends(gguf) or None
    return model


def ends_of(path: Path) -> list[int]:
    """Return the tokens that the file says end an answer."""
    with open_gguf(path) as gguf:
        return _ends(gguf)


def fingerprint_of(path: Path) -> str:
    """Return what tells the model from others: of its header, and of both ends of every tensor."""
    with open_gguf(path) as gguf:
        return gguf.fingerprint[:16]


def _most_bytes(gguf: GgufFile) -> str:
    sizes: Counter[str] = Counter()
    for tensor in gguf.tensors.values():
        sizes[tensor.type.name] += tensor.size_bytes
    return max(sizes, key=sizes.__getitem__)


def _ends(gguf: GgufFile) -> list[int]:
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    return [gguf.int(key) for key in keys if key in gguf.metadata]
