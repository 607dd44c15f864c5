"""generation_config.json: how its authors let the model choose tokens, and which tokens end an answer."""

from __future__ import annotations

from pathlib import Path

from dure.convert.huggingface.config import Config
from dure.convert.huggingface.json_file import read_json
from dure.convert.model import Metadata

__all__ = ["generation_of", "sampling_keys"]

_NUMBERS = {
    "temperature": "temp",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}


def generation_of(folder: Path) -> Config:
    """Read a folder's generation_config.json; empty if it has none."""
    return Config(read_json(folder / "generation_config.json"), "generation_config.json")


def sampling_keys(folder: Path) -> Metadata:
    """Return what the file says of sampling, in the keys of llama.cpp's converter."""
    generation = generation_of(folder)
    keys: dict[str, int | float] = {
        f"general.sampling.{ours}": generation.number(theirs)
        for theirs, ours in _NUMBERS.items()
        if generation.has(theirs)
    }
    if generation.has("top_k"):
        keys["general.sampling.top_k"] = int(generation.number("top_k"))
    return keys
