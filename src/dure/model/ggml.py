"""What llama.cpp's tensor types are: their names, blocks, and conversion from and to float32.

Everything is read from the library that llama-cpp-python loads, so a type that a newer
llama.cpp brings is known here without a change. This module knows nothing about files.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from dure.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "LARGEST_IMPORTANCE",
    "WRITABLE_TYPES",
    "GgmlType",
    "decoder_of",
    "dequantize",
    "ggml_type",
    "needs_importance",
    "quantize",
    "type_named",
]

WRITABLE_TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4", "IQ4_NL", "IQ4_XS"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
)
"""What can be written without an importance matrix."""

_TYPE_IDS_ASKED = 256  # llama.cpp numbers its types upwards from 0 and had 43 in 2026
_LARGEST_WEIGHT = 65504.0  # of float16; some encoders abort the process far beyond it
LARGEST_IMPORTANCE = 1e12  # of a column; its square times that of a weight must not overflow
_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


@dataclass(frozen=True)
class GgmlType:
    """A tensor type: `block_size` elements are stored in `type_size` bytes.

    `name` is llama.cpp's own in upper case: F32, F16, Q4_K, MXFP4.
    """

    id: int
    name: str
    block_size: int
    type_size: int
    quantized: bool

    def row_bytes(self, n: int) -> int:
        """Return the bytes of a row of `n` elements. Raises ModelError when a block would be broken."""
        if n % self.block_size:
            raise ModelError(
                f"a row of {n} elements cannot be stored as {self.name}",
                f"use a multiple of its block of {self.block_size}",
            )
        return n // self.block_size * self.type_size


class _TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits`. Source: llama.cpp `ggml.h`."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )


def ggml_type(type_id: int) -> GgmlType:
    """Return the type with this number. Raises ModelError when llama.cpp has none, or no longer."""
    try:
        return _types()[type_id]
    except KeyError:
        raise ModelError(
            f"tensor type {type_id} is unknown to the installed llama.cpp",
            "the file is damaged, or llama-cpp-python must be upgraded",
        ) from None


def type_named(name: str) -> GgmlType:
    """Return the type with this name, in either case. Raises ModelError when llama.cpp has none."""
    for known in _types().values():
        if known.name == name.upper():
            return known
    names = ", ".join(known.name for known in _types().values())
    raise ModelError(f"tensor type {name!r} is unknown to the installed llama.cpp", f"use {names}")


def dequantize(
    data: bytes | bytearray | memoryview | NDArray[np.uint8], type_: GgmlType, n: int
) -> NDArray[np.float32]:
    """Decode the first `n` elements of `data`: float32 [n].

    Raises ModelError when `n` breaks a block, `data` is too short, or llama.cpp cannot decode
    the type. Source: `ggml_type_traits.to_float` of llama.cpp.
    """
    import numpy as np

    needed = type_.row_bytes(n)
    source = np.ascontiguousarray(np.frombuffer(data, dtype=np.uint8))
    if n < 0 or source.size < needed:
        raise ModelError(
            f"{n} elements of {type_.name} need {needed} bytes but {source.size} were given",
            "the tensor is damaged",
        )
    out = np.empty(n, dtype=np.float32)
    decoder_of(type_)(source.ctypes.data, out.ctypes.data, n)
    return out


def decoder_of(type_: GgmlType) -> Callable[[int, int, int], None]:
    """Return a function that decodes elements from one address to another, as float32; whole blocks.

    Raises ModelError when llama.cpp cannot decode the type.
    """
    if type_.name == "F32":
        return _copy_floats
    to_float = _to_float(type_)
    if to_float is None:
        raise ModelError(f"llama.cpp cannot turn {type_.name} into float32", "use another type")
    return to_float


def _copy_floats(source: int, target: int, n: int) -> None:
    ctypes.memmove(target, source, 4 * n)


def quantize(
    x: NDArray[np.float32], type_: GgmlType, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Encode `x`: float32 [rows, cols] -> uint8 [rows, row_bytes]; other threads run meanwhile.

    importance: float32 [cols], how much an error in a column counts, as an importance matrix has it; some
    types are made with one only. Raises ModelError when `cols` breaks a block, a weight of `x` is NaN or
    beyond ±65504 (the scales of most blocks are float16), an importance is no number from 0 to 1e12, or the
    type is not made from float32 alone.
    Source: `ggml_quantize_chunk` of llama.cpp.
    """
    import numpy as np

    if x.ndim != 2:
        raise ValueError(f"x has {x.ndim} dimensions, not [rows, cols]")
    source = np.ascontiguousarray(x, dtype=np.float32)
    rows, cols = source.shape
    out = np.zeros((rows, type_.row_bytes(cols)), dtype=np.uint8)
    _check_encodable(type_, has_importance=importance is not None)
    if type_.quantized and not (np.abs(source) <= _LARGEST_WEIGHT).all():
        raise ModelError(
            f"weights that are NaN or beyond ±{_LARGEST_WEIGHT:.0f} cannot be stored as "
            f"{type_.name}",
            "use F32",
        )
    weights = None if importance is None else _checked_importance(importance, cols)
    if out.size:
        _library().ggml_quantize_chunk(
            type_.id,
            source.ctypes.data,
            out.ctypes.data,
            0,
            rows,
            cols,
            None if weights is None else weights.ctypes.data,
        )
        if not _library().ggml_validate_row_data(type_.id, out.ctypes.data, out.size):
            raise ModelError(f"weights this large cannot be stored as {type_.name}", "use F32")
    return out


def needs_importance(type_: GgmlType) -> bool:
    """Return whether a type is made with an importance matrix only."""
    return bool(_library().ggml_quantize_requires_imatrix(type_.id))


def _checked_importance(importance: NDArray[np.float32], cols: int) -> NDArray[np.float32]:
    import numpy as np

    weights = np.ascontiguousarray(importance, dtype=np.float32)
    if weights.shape != (cols,):
        raise ModelError(
            f"importances of shape {weights.shape} are not for rows of {cols} elements",
            "make the importance matrix from this model",
        )
    if not ((weights >= 0) & (weights <= LARGEST_IMPORTANCE)).all():
        raise ModelError(
            f"an importance is no number from 0 to {LARGEST_IMPORTANCE:.0e}",
            "make the matrix again",
        )
    return weights


def _check_encodable(type_: GgmlType, *, has_importance: bool) -> None:
    # ggml_quantize_chunk aborts the process for whatever is refused here
    if not has_importance and needs_importance(type_):
        raise ModelError(
            f"{type_.name} cannot be made without an importance matrix", "use Q4_K or IQ4_NL"
        )
    if type_.name != "F32" and _to_float(type_) is None:
        raise ModelError(f"llama.cpp cannot turn float32 into {type_.name}", "use another type")


@cache
def _library() -> ctypes.CDLL:
    """Return libggml-base, which libllama brought into the process."""
    import llama_cpp.llama_cpp as bindings

    lib: ctypes.CDLL = bindings._lib  # a symbol is looked up in its dependencies, too
    integer, pointer, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
    int64 = ctypes.c_int64
    lib.ggml_get_type_traits.argtypes = [integer]
    lib.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    lib.ggml_quantize_requires_imatrix.argtypes = [integer]
    lib.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    lib.ggml_quantize_chunk.argtypes = [integer, pointer, pointer, int64, int64, int64, pointer]
    lib.ggml_quantize_chunk.restype = size
    lib.ggml_validate_row_data.argtypes = [integer, pointer, size]
    lib.ggml_validate_row_data.restype = ctypes.c_bool
    return lib


@cache
def _types() -> Mapping[int, GgmlType]:
    lib = _library()
    known: dict[int, GgmlType] = {}
    for type_id in _type_ids(lib):
        traits = lib.ggml_get_type_traits(type_id).contents
        known[type_id] = GgmlType(
            id=type_id,
            name=traits.type_name.decode("ascii").upper(),
            block_size=traits.blck_size,
            type_size=traits.type_size,
            quantized=traits.is_quantized,
        )
    return MappingProxyType(known)


def _type_ids(lib: ctypes.CDLL) -> list[int]:
    """Return the ids that llama.cpp's own GGUF reader accepts.

    `ggml_get_type_traits` reads past its table when it is asked about an id that does not
    exist, and the length of that table is compiled in. The reader checks ids properly, so it
    is given a model of one empty tensor for each id; meanwhile its complaints are dropped.
    """

    class Params(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))

    lib.gguf_init_from_buffer.argtypes = [ctypes.c_char_p, ctypes.c_size_t, Params]
    lib.gguf_init_from_buffer.restype = ctypes.c_void_p
    lib.gguf_free.argtypes = [ctypes.c_void_p]
    lib.gguf_free.restype = None
    lib.ggml_log_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    lib.ggml_log_set.argtypes = [ctypes.c_void_p, ctypes.c_void_p]

    logger, user_data = ctypes.c_void_p(), ctypes.c_void_p()
    lib.ggml_log_get(ctypes.byref(logger), ctypes.byref(user_data))
    silence = _LogCallback(lambda _level, _text, _user_data: None)
    lib.ggml_log_set(ctypes.cast(silence, ctypes.c_void_p), None)
    accepted = []
    try:
        for type_id in range(_TYPE_IDS_ASKED):
            model = _model_of_one_empty_tensor(type_id)
            if handle := lib.gguf_init_from_buffer(model, len(model), Params(True, None)):
                lib.gguf_free(handle)
                accepted.append(type_id)
    finally:
        lib.ggml_log_set(logger, user_data)
    return accepted


def _model_of_one_empty_tensor(type_id: int) -> bytes:
    head = struct.pack("<4sIqq", b"GGUF", 3, 1, 0)
    tensor = struct.pack("<Q1sIqiQ", 1, b"x", 1, 0, type_id, 0)
    return (head + tensor).ljust(96, b"\0")


@cache
def _to_float(type_: GgmlType) -> Callable[[int, int, int], None] | None:
    address = _library().ggml_get_type_traits(type_.id).contents.to_float
    return _ToFloat(address) if address else None
