"""Tiny models with random weights as GGUFs, one for each architecture that is brought back to torch.

Needs torch and transformers. Made by transformers and imported by dure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dure.convert.model import write_model
from dure.convert.sources import Asked, source_of
from dure.model.ggml import type_named
from tests.convert.programs import transformers_models as tiny

__all__ = ["BASES", "PROMPT", "imported", "texts", "write_base"]

PROMPT: list[int] = tiny.PROMPT
BASES: Mapping[str, tuple[Callable[[], Any], Callable[[Path], Any]]] = {
    "llama": (tiny.llama, lambda _: tiny.byte_level(tiny.LLAMA3, bos=True, ignore_merges=True)),
    "llama2": (tiny.llama2, lambda folder: tiny.sentencepiece_style(folder, prefix=True)),
    "qwen2": (tiny.qwen2, lambda _: tiny.byte_level(tiny.QWEN2, bos=False)),
    "qwen3": (tiny.qwen3, lambda _: tiny.byte_level(tiny.QWEN2, bos=False)),
    "qwen3moe": (tiny.qwen3moe, lambda _: tiny.byte_level(None, bos=False)),
    "gemma3": (tiny.gemma3, lambda folder: tiny.sentencepiece_style(folder, prefix=False)),
    "gpt-oss": (tiny.gpt_oss, lambda _: tiny.byte_level(tiny.O200K, bos=True)),
}
"""Models and tokenizers: scaled positions of three kinds, tied and own outputs, biases, experts."""


def write_base(folder: Path, name: str, seed: int = 3) -> Path:
    """Write a model as FOLDER/NAME.gguf in float32, by way of FOLDER/NAME."""
    import torch

    torch.manual_seed(seed)
    make, tokenizer = BASES[name]
    folder.mkdir(parents=True, exist_ok=True)
    tiny.shaken(make()).save_pretrained(folder / name)
    tokenizer(folder).save_pretrained(folder / name)
    return imported(folder / name, folder / f"{name}.gguf")


def imported(folder: Path, out: Path) -> Path:
    """Import a Hugging Face folder in float32."""
    with source_of(folder).opened(folder, Asked(type_named("F32"))) as model:
        write_model(model, out)
    return out


def texts(count: int) -> list[str]:
    """Return strings of many languages, code, blanks and special tokens."""
    return tiny.texts(count)
