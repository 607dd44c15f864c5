"""The table of embeddings that llama.cpp holds twice: as it is, and repacked for logits.

Knows where llama.cpp keeps a model's tensors. Who hands in embeddings instead of tokens needs the repacked
copy alone. llama.cpp tells of its tensors in C++ only: where that is not found, the table stays.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from typing import Any

from dure.engine.compute.memory import give_back
from dure.engine.compute.native import llama_libraries

__all__ = ["give_back_table", "is_doubled"]

_TABLE = b"token_embd.weight"
_TENSORS = "_Z29llama_internal_get_tensor_mapB5cxx11PK11llama_model"


class _NamedTensor(ctypes.Structure):
    """A `std::pair<std::string, ggml_tensor *>` of GNU's C++ library."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("n_letters", ctypes.c_size_t),
        ("_letters", ctypes.c_char * 16),
        ("tensor", ctypes.c_void_p),
    )


class _Tensor(ctypes.Structure):
    """The beginning of a `ggml_tensor`."""

    _fields_ = (("type", ctypes.c_int), ("buffer", ctypes.c_void_p))


def is_doubled(model: Any) -> bool:
    """Return whether a loaded `llama_model *` holds its table twice."""
    return _looked_up(model) is not None


def give_back_table(model: Any) -> None:
    """Give back the memory of the copy that tokens are looked up in, if the logits have another.

    Tokens must not be decoded after that, only their embeddings.
    """
    if (table := _looked_up(model)) is not None:
        give_back(_ggml().ggml_get_data(table), _ggml().ggml_nbytes(table))


def _looked_up(model: Any) -> int | None:
    """Return the tensor that tokens are looked up in, if there is another for the logits."""
    tables = list(_tables(model))
    here = [table for table in tables if _is_in_memory(table)]
    return here[0] if len(tables) == 2 and len(here) == 1 else None


def _tables(model: Any) -> Iterator[int]:
    try:
        tensors = ctypes.CDLL(str(llama_libraries() / "libllama.so"))[_TENSORS]
    except (AttributeError, OSError):  # another llama.cpp, or another system
        return
    tensors.restype = ctypes.POINTER(ctypes.c_void_p * 2)
    tensors.argtypes = [ctypes.c_void_p]
    begin, end = tensors(model).contents
    for at in range(begin or 0, end or 0, ctypes.sizeof(_NamedTensor)):
        one = _NamedTensor.from_address(at)
        if ctypes.string_at(one.name, one.n_letters) == _TABLE:
            yield one.tensor


def _is_in_memory(tensor: int) -> bool:
    """Return whether a tensor lies row after row in this process's memory."""
    buffer = _Tensor.from_address(tensor).buffer
    return bool(buffer and _ggml().ggml_backend_buffer_is_host(buffer))


@cache
def _ggml() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(llama_libraries() / "libggml-base.so"))
    loaded.ggml_get_data.restype, loaded.ggml_get_data.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    loaded.ggml_nbytes.restype, loaded.ggml_nbytes.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    loaded.ggml_backend_buffer_is_host.argtypes = [ctypes.c_void_p]
    loaded.ggml_backend_buffer_is_host.restype = ctypes.c_bool
    return loaded
