"""How llama.cpp lays rows of quantized weights side by side on ARM.

Source: llama.cpp `ggml/src/ggml-cpu/repack.cpp`, as llama-cpp-python 0.3.36 has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dure.model.ggml import type_named

__all__ = ["GROUP_ROWS", "HALVES", "side_by_side"]

Bytes = npt.NDArray[np.uint8]

# Where 16-bit floats of a block or a superblock are.
HALVES = {
    "Q4_0": (0,), "Q5_0": (0,), "Q8_0": (0,), "IQ4_NL": (0,), "MXFP4": (),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_XS": (0,),
}  # fmt: skip
GROUP_ROWS = {"Q4_0": 4, "Q8_0": 4, "IQ4_NL": 4, "MXFP4": 4, "Q4_K": 8, "Q5_K": 8, "Q6_K": 8}
# Fields in the order that they have in a group: first byte, end, and the bytes of a row that stay together;
# 0: those of the layout.
_FIELDS: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "Q4_0": ((0, 2, 2), (2, 18, 0)),
    "Q8_0": ((0, 2, 2), (2, 34, 0)),
    "IQ4_NL": ((0, 2, 2), (2, 18, 0)),
    "MXFP4": ((0, 1, 1), (1, 17, 0)),
    "Q4_K": ((0, 2, 2), (2, 4, 2), (4, 16, 12), (16, 144, 0)),
    "Q5_K": ((0, 2, 2), (2, 4, 2), (4, 16, 12), (16, 48, 0), (48, 176, 0)),
    "Q6_K": ((208, 210, 2), (192, 208, 1), (0, 128, 0), (128, 192, 0)),
}


def side_by_side(rows: Bytes, kind: str, chunk: int) -> Bytes:
    """Return rows [n_rows, row_bytes] as llama.cpp repacks them, chunk bytes of each row in turn."""
    n, together = type_named(kind).type_size, GROUP_ROWS[kind]
    groups = rows.reshape(rows.shape[0] // together, together, -1, n).swapaxes(1, 2)
    parts: list[Any] = []
    for first, end, own in _FIELDS[kind]:
        field = groups[..., first:end]
        if own == 12:
            field = _packed(field)
        elif kind == "Q4_0" and not own:
            field = field ^ np.uint8(0x88)
        chunks = field.reshape(*field.shape[:-1], -1, own or chunk).swapaxes(2, 3)
        parts.append(chunks.reshape(*field.shape[:2], -1))
    return np.ascontiguousarray(np.concatenate(parts, -1)).reshape(rows.shape)


def _packed(own: Bytes) -> Bytes:
    """Return scales and minima [..., row, 12] of eight rows, packed by block: [..., block, 12]."""
    first, last, low = own[..., :4], own[..., 4:8], own[..., 8:]
    scales = np.concatenate([first & 63, (low & 15) | first >> 6 << 4], -1).swapaxes(-1, -2)
    minima = np.concatenate([last & 63, low >> 4 | last >> 6 << 4], -1).swapaxes(-1, -2)
    words = [x[..., :4] | x[..., 4:] >> 4 << 6 for x in (scales, minima)]
    others = (scales[..., 4:] & 15) | (minima[..., 4:] & 15) << 4
    return np.concatenate([*words, others], -1)
