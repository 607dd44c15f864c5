"""How positions turn queries and keys (RoPE): from the keys of transformers 4 and 5 to those of GGUF.

Knows the scalings that llama.cpp computes. Refuses to know which model uses which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dure.convert.huggingface.config import Config
from dure.model.gguf import Value

__all__ = ["Rope", "rope_of"]


@dataclass(frozen=True)
class Rope:
    """What a GGUF says of RoPE. metadata: keys without the architecture.

    factors: by which the frequencies of each pair are divided, float32 [n_rot / 2]; None without them.
    """

    metadata: dict[str, Value | bool | int | float | str]
    factors: npt.NDArray[np.float32] | None = None


def rope_of(config: Config, n_rot: int) -> Rope:
    """Read RoPE's parameters. n_rot: rotated numbers of a head. Raises ModelError if one is unknown."""
    parameters = config.within("rope_parameters", "rope_scaling")
    full = parameters.within("full_attention") if parameters.has("full_attention") else parameters
    window = parameters.within("sliding_attention")
    base = (
        full.number("rope_theta")
        if full.has("rope_theta")
        else config.number("rope_theta", default=10000.0)
    )
    metadata: dict[str, Value | bool | int | float | str] = {"rope.freq_base": base}
    if window.has("rope_theta") or config.has("rope_local_base_freq"):
        metadata["rope.freq_base_swa"] = (
            window.number("rope_theta")
            if window.has("rope_theta")
            else config.number("rope_local_base_freq")
        )
    window.require("rope_type", "default", None)
    for one in (config, full, window):
        one.require("partial_rotary_factor", 1, None)
    kind = full.text("rope_type", full.text("type", "default"))
    if kind == "llama3":
        return Rope(metadata, _llama3(config, full, base, n_rot))
    if kind != "default":
        metadata |= _scaling(config, full, kind)
    return Rope(metadata)


def _scaling(
    config: Config, rope: Config, kind: str
) -> dict[str, Value | bool | int | float | str]:
    if kind not in ("linear", "yarn"):
        rope.fail(f"rope_type {kind!r} is not computed by dure", "dure cannot run this model")
    factor = rope.number("factor")
    metadata: dict[str, Value | bool | int | float | str] = {
        "rope.scaling.type": kind,
        "rope.scaling.factor": factor,
    }
    if kind == "linear":
        return metadata
    metadata["rope.scaling.original_context_length"] = _original(config, rope)
    for theirs, ours in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
        if rope.has(theirs):
            metadata[f"rope.scaling.{ours}"] = rope.number(theirs)
    usual = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    if rope.has(
        "attention_factor"
    ):  # llama.cpp multiplies by the usual one, yarn_attn_factor or not
        metadata["rope.scaling.attn_factor"] = rope.number("attention_factor") / usual
    for key in ("mscale", "mscale_all_dim"):
        rope.require(key, None)
    return metadata


def _original(config: Config, rope: Config) -> int:
    key = "original_max_position_embeddings"
    return rope.whole(key) if rope.has(key) else config.whole(key, "max_position_embeddings")


def _llama3(config: Config, rope: Config, base: float, n_rot: int) -> npt.NDArray[np.float32]:
    """Return Llama 3's factors: long waves are stretched, short ones kept, those between blended.

    Source: transformers `modeling_rope_utils.py`, `_compute_llama3_parameters`.
    """
    factor, length = rope.number("factor"), _original(config, rope)
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if not (factor >= 1 and 0 < low < high):
        rope.fail("its factors of llama3 make no sense")
    waves = 2 * math.pi * base ** (np.arange(0, n_rot, 2) / n_rot)
    kept = np.clip((length / waves - low) / (high - low), 0, 1)
    return (1 / ((1 - kept) / factor + kept)).astype(np.float32)
