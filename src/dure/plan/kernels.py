"""Which weights are computed with quick kernels, on a processor with some features, and which give a vector
the same bits alone and among others. Pure.

llama.cpp's quick kernels read weights that were repacked at loading, several rows side by side; which types
have them depends on the processor. dure has kernels of its own, for some of these and for other types.
Source: llama.cpp, as llama-cpp-python 0.3.36 has it, and `native/weight_layout.h`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from dure.model.gguf import Tensor, bytes_by_type

__all__ = ["is_quick", "is_repacked", "repeats", "slow_bytes"]

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
# Of any number of rows: repacked by eight, or row after row.
_OURS = frozenset({"Q5_0", "Q8_0", "IQ4_NL", "MXFP4", "Q2_K", "Q3_K", "Q5_K", "Q6_K", "IQ4_XS"})
_OURS_NEED = frozenset({"avx2", "fma", "f16c"})
# On ARM in both layouts, with plain NEON too, which every processor of 64 bits has.
_OURS_ON_ARM = _OURS | {"Q4_0", "Q4_K"}
_ARM = "asimd"
# Besides ours, types whose products do not depend on how many vectors there are: llama.cpp's that sum in
# one order for any number, and Q4_0, which is ours or theirs.
_REPEATING = frozenset({"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_1"})
_REPACKED_ROWS = 8  # of Q4_K, which is ours where it is repacked


def is_repacked(type_name: str, n_rows: int, features: Collection[str]) -> bool:
    """Return whether a matrix of this type and n_rows rows is repacked."""
    return any(
        feature in features and n_rows % together == 0
        for feature, together in _REPACKED.get(type_name, ())
    )


def is_quick(type_name: str, n_rows: int, features: Collection[str]) -> bool:
    """Return whether a matrix of this type and n_rows rows has quick kernels, llama.cpp's or ours."""
    if _ARM in features:
        return type_name in _OURS_ON_ARM
    is_ours = type_name in _OURS and _OURS_NEED.issubset(features)
    return is_ours or is_repacked(type_name, n_rows, features)


def _repeats(type_name: str, n_rows: int) -> bool:
    if type_name == "Q4_K":
        return n_rows % _REPACKED_ROWS == 0
    return type_name in _OURS or type_name in _REPEATING


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


def repeats(tensors: Mapping[str, Tensor], features: Collection[str]) -> bool:
    """Return whether a token's numbers do not depend on how many others are computed with it."""
    looked_up = {"token_embd.weight"} if "output.weight" in tensors else set[str]()
    return _OURS_NEED.issubset(features) and all(
        _repeats(tensor.type.name, tensor.shape[1])
        for name, tensor in tensors.items()
        if len(tensor.shape) > 1 and name not in looked_up
    )
