"""Products of quantized matrices and few vectors, for `few_vectors.c`: every type in every layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dure.model.ggml import dequantize, type_named
from tests.arm64.layouts import GROUP_ROWS, HALVES, side_by_side
from tests.support.products import KINDS, Array, rounded

__all__ = ["Product", "all_products"]

N_COLUMNS = 512
CHUNKS = (0, 4, 8)
"""Bytes of a row that stay together, in the order of `row_layout`; 0: rows are one by one."""


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix and the vectors that it is multiplied with."""

    kind: str
    chunk: int
    rows: Array
    vectors: Array

    @property
    def name(self) -> str:
        """Return what a failed test says of it."""
        return f"{self.kind}, {self.chunk} bytes of a row in turn, {len(self.vectors)} vectors"

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of vectors and of rows."""
        return len(self.vectors), len(self.rows)

    def sent(self) -> bytes:
        """Return what the program reads."""
        laid = side_by_side(self.rows, self.kind, self.chunk) if self.chunk else self.rows
        layout = CHUNKS.index(self.chunk)
        head = (type_named(self.kind).id, layout, *self.shape, N_COLUMNS, self.rows.shape[1])
        parts = (np.array(head, np.int32), self.rows, laid, self.vectors)
        return b"".join(part.tobytes() for part in parts)

    def exact(self) -> Array:
        """Return the product of ggml's weights and of rounded vectors: [vector, row]."""
        n = len(self.rows) * N_COLUMNS
        weights = dequantize(self.rows.ravel(), type_named(self.kind), n).reshape(-1, N_COLUMNS)
        result: Array = rounded(self.vectors, self.kind) @ weights.astype(float).T
        return result


def _rows(kind: str, n_rows: int, random: np.random.Generator) -> Array:
    """Return rows of any bytes, but with scales of ordinary size and both signs."""
    type_ = type_named(kind)
    shape = n_rows, N_COLUMNS // type_.block_size
    blocks = random.integers(0, 256, (*shape, type_.type_size), np.uint8)
    for row, byte in enumerate(
        (0x00, 0x80, 0xFF)
    ):  # the largest numbers of all types, of either sign
        blocks[row, 0] = byte
    for at in HALVES[kind]:
        scales = random.normal(0, 1, shape).astype(np.float16)
        blocks[..., at : at + 2] = scales[..., None].view(np.uint8)
    if kind == "MXFP4":  # some of them denormal, none of them infinite
        blocks[..., 0] = random.choice([0, 1, 2, 120, 127, 133], shape)
    return blocks.reshape(n_rows, -1)


def _layouts(kind: str, has_dots: bool) -> Iterator[int]:
    """Yield those that the kernels of a processor know."""
    for chunk in CHUNKS:
        by_four_only = kind in {"IQ4_NL", "MXFP4"}
        if not chunk or (has_dots and kind in GROUP_ROWS and not (chunk == 8 and by_four_only)):
            yield chunk


def all_products(*, has_dots: bool) -> list[Product]:
    """Return all, with one vector and with some; in one of them all numbers are the largest."""
    random = np.random.default_rng(3)
    found = []
    for kind in KINDS:
        for chunk in _layouts(kind, has_dots):
            for n in (1, 3):
                vectors = random.normal(0, 1, (n, N_COLUMNS)).astype(np.float32)
                vectors[-1] = n + 1
                vectors[0, 32:64] = 0
                n_rows = GROUP_ROWS[kind] * 3 if chunk else 19
                found.append(Product(kind, chunk, _rows(kind, n_rows, random), vectors))
    return found
