"""How positions turn queries and keys (RoPE): from the keys of GGUF to `rope_parameters` of transformers 5.

Knows what llama.cpp computes. Refuses to know architectures.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from dure.errors import ModelError
from dure.model.gguf import GgufFile
from dure.model.gguf.values import one_line

__all__ = ["rope_parameters"]

Floats = npt.NDArray[np.float64]
_PUBLISHED = (1.0, 4.0)
"""Low and high frequency factor of every Llama that was published with stretched waves."""


def rope_parameters(
    gguf: GgufFile, n_rot: int, factors: npt.NDArray[np.float32] | None
) -> dict[str, Any]:
    """Return transformers' parameters. n_rot: rotated numbers of a head. factors: of `rope_freqs.weight`.

    Raises ModelError if transformers computes nothing alike.
    """
    prefix = f"{gguf.architecture}.rope"
    base = gguf.float(f"{prefix}.freq_base", 10000.0)
    plain = {"rope_type": "default", "rope_theta": base}
    kind = gguf.str(f"{prefix}.scaling.type", "none")
    factor = gguf.float(f"{prefix}.scaling.factor", gguf.float(f"{prefix}.scale_linear", 1.0))
    if f"{prefix}.scaling.type" not in gguf.metadata and factor > 1:
        kind = "linear"
    if gguf.int(f"{prefix}.dimension_count", n_rot) != n_rot:
        _refuse(gguf, "only a part of each head is rotated")
    if factors is not None and np.any(factors != 1):
        if kind != "none":
            _refuse(gguf, f"it has rope_freqs.weight and scaling of the kind {kind}")
        return {"rope_theta": base, **_llama3(gguf, factors.astype(np.float64), base)}
    if kind == "none" or factor == 1:
        return plain
    if kind == "linear":
        return {**plain, "rope_type": "linear", "factor": factor}
    if kind != "yarn":
        _refuse(gguf, f"rope.scaling.type is {one_line(repr(kind))}")
    return {**plain, **_yarn(gguf, factor)}


def _refuse(gguf: GgufFile, what: str) -> NoReturn:
    raise ModelError(
        f"{one_line(gguf.paths[0].name)}: {what}, which transformers does not compute as llama.cpp does",
        "name the Hugging Face folder that the file was made of",
    )


def _yarn(gguf: GgufFile, factor: float) -> dict[str, Any]:
    prefix = f"{gguf.architecture}.rope.scaling"
    trained = gguf.int(f"{gguf.architecture}.context_length")
    usual = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": gguf.int(f"{prefix}.original_context_length", trained),
        "beta_fast": gguf.float(f"{prefix}.yarn_beta_fast", 32.0),
        "beta_slow": gguf.float(f"{prefix}.yarn_beta_slow", 1.0),
        "attention_factor": usual * gguf.float(f"{prefix}.attn_factor", 1.0),
        "truncate": True,  # llama.cpp always does
    }


def _llama3(gguf: GgufFile, factors: Floats, base: float) -> dict[str, Any]:
    """Return the parameters of which Llama 3's factors were made. Raises ModelError if they were not.

    Long waves are stretched by the largest factor, short ones by none; between them 1 / factor is a line
    over 1 / wave: its slope and its zero give two of three parameters, and only their ratios count.
    """
    waves = 2 * math.pi * base ** (np.arange(len(factors)) / len(factors))
    factor = float(factors.max())
    kept = (1 / factors - 1 / factor) / (1 - 1 / factor)
    between = np.flatnonzero((kept > 1e-4) & (kept < 1 - 1e-4))
    candidates = [(*_PUBLISHED, length) for length in _lengths(waves, kept, between)]
    if len(between) > 1:
        slope, zero = np.polyfit(1 / waves[between], kept[between], 1)
        if zero < 0 < slope:
            high = 1 - 1 / zero
            candidates.append((1.0, high, round(slope * (high - 1))))
    for low, high, length in candidates:
        found = np.clip((length / waves - low) / (high - low), 0, 1)
        if np.allclose(1 / ((1 - found) / factor + found), factors, rtol=2e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": length,
            }
    _refuse(gguf, "rope_freqs.weight has factors of its own")


def _lengths(waves: Floats, kept: Floats, between: npt.NDArray[np.int64]) -> list[int]:
    """Return the trained lengths that the published low and high factor would have."""
    low, high = _PUBLISHED
    found = [round(float(waves[i] * (kept[i] * (high - low) + low))) for i in between]
    for first, second in pairwise(range(len(waves))):  # no wave lies between: any length does
        if kept[first] > kept[second] and not len(between):
            found.append(round(math.sqrt(waves[first] * high * waves[second] * low)))
    return sorted(found, key=lambda length: length.bit_count())
