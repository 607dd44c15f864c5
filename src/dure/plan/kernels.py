"""Which weights are computed with quick kernels, on a processor with some features. Pure.

llama.cpp's quick kernels read weights that were repacked at loading, several rows side by side; which types
have them depends on the processor. For some other types dure has kernels of its own.
Source: llama.cpp, as llama-cpp-python 0.3.36 has it, and `native/weight_layout.h`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from dure.model.gguf import Tensor, bytes_by_type

__all__ = ["is_quick", "is_repacked", "slow_bytes"]

# Of each type, the processor's feature (as Linux calls it) and the rows that are taken together.
_REPACKED: Mapping[str, tuple[tuple[str, int], ...]] = {
    "Q2_K": (("avx512f", 8),),
    "Q4_0": (("avx2", 8), ("asimddp", 4)),
    "Q4_K": (("avx2", 8), ("asimddp", 8)),
    "Q5_K": (("asimddp", 8),),
    "Q6_K": (("asimddp", 8),),
    "Q8_0": (("asimddp", 4),),
    "IQ4_NL": (("avx2", 8), ("asimddp", 4)),
    "MXFP4": (("avx2", 8), ("asimddp", 4)),
}
_OURS = frozenset({"Q6_K", "Q8_0"})
_OURS_NEED = frozenset({"avx2", "fma", "f16c"})
_OUR_ROWS = 16  # that are taken together


def is_repacked(type_name: str, n_rows: int, features: Collection[str]) -> bool:
    """Return whether a matrix of this type and n_rows rows is repacked."""
    return any(
        feature in features and n_rows % together == 0
        for feature, together in _REPACKED.get(type_name, ())
    )


def is_quick(type_name: str, n_rows: int, features: Collection[str]) -> bool:
    """Return whether a matrix of this type and n_rows rows has quick kernels, llama.cpp's or ours."""
    is_ours = type_name in _OURS and n_rows % _OUR_ROWS == 0 and _OURS_NEED.issubset(features)
    return is_ours or is_repacked(type_name, n_rows, features)


def slow_bytes(tensors: Iterable[Tensor], features: Collection[str]) -> dict[str, int]:
    """Return by type the bytes of matrices that this processor has no quick kernels for.

    Without the table of embeddings, whose rows are only looked up.
    """
    matrices = (
        tensor
        for tensor in tensors
        if len(tensor.shape) > 1 and not tensor.name.startswith("token_embd")
    )
    return bytes_by_type(
        matrix for matrix in matrices if not is_quick(matrix.type.name, matrix.shape[1], features)
    )
