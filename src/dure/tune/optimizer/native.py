"""The native kernels of AdamW, loaded, and the structures that they read.

Knows `native/adamw.h`, of which this is the mirror; what a pass means is said there. Refuses to know torch.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from functools import cache
from pathlib import Path

from dure.engine.compute.variants import chosen, file_of
from dure.errors import ResourceError

__all__ = [
    "BLOCK",
    "COLUMNS",
    "SMALLEST_BASE",
    "WIDE_BLOCK",
    "ZERO",
    "Format",
    "Pass",
    "Passes",
    "StepStruct",
    "TensorStruct",
    "loaded",
]

BLOCK = 64
"""Values that have one mark."""

WIDE_BLOCK = 1024
"""The same if state has 8 bits. Such state is whole blocks."""

COLUMNS = 16
"""Of a wide block: each has a scale and a base of its own."""

ZERO, SMALLEST_BASE = 128, 32
"""Of directions and of what weights lack, and of second moments: in 8-bit state, before the first step."""

PART = 1 << 20  # values that a thread works on without interruption
_SIZES = 16, 8  # bits by which the library's answer is shifted


class Format(IntEnum):
    """How a parameter and its moments lie in memory: the type of either."""

    F32_F32 = 0
    F32_BF16 = 1
    F32_8BIT = 2
    BF16_F32 = 3
    BF16_BF16 = 4
    BF16_8BIT = 5


class Pass(IntEnum):
    """What is computed in one pass over memory."""

    WHOLE = 0
    EARLY = 1
    FINISH = 2
    UNDO = 3
    SQUARES = 4


class TensorStruct(ctypes.Structure):
    """A parameter, its gradient and its state."""

    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("rest", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("second", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bases", ctypes.c_void_p),
        ("moved", ctypes.c_void_p),
        ("seed", ctypes.c_uint32),
        ("turn", ctypes.c_uint32),
        ("format", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    )


class StepStruct(ctypes.Structure):
    """The constants of one step."""

    _fields_ = tuple(
        (name, ctypes.c_float)
        for name in (
            *("beta1", "beta2", "rest1", "rest2", "step_size", "root_scale", "root_scale_before"),
            *("eps", "decay", "scale"),
        )
    )


class _Part(ctypes.Structure):
    _fields_ = (
        ("tensor", ctypes.POINTER(TensorStruct)),
        ("step", ctypes.POINTER(StepStruct)),
        ("first", ctypes.c_size_t),
        ("n", ctypes.c_size_t),
        ("squares", ctypes.c_double),
        ("left_out", ctypes.c_int64),
        ("action", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    )


@cache
def loaded() -> ctypes.CDLL:
    """Load the kernels for this processor. Raises ResourceError if they cannot be; also as `chosen`."""
    # Of one level there are none for 8-bit products apart: AdamW has no products.
    name = chosen().removesuffix("-vnni").removesuffix("-i8mm").removesuffix("-dotprod")
    path = file_of(name, "dure_optimizer", Path(__file__).parent)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ResourceError(
            f"the optimizer's native library cannot be loaded ({error})", "install dure again"
        ) from error
    library.dure_adamw.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    library.dure_adamw.restype = None
    ours = ctypes.sizeof(TensorStruct) << 16 | ctypes.sizeof(StepStruct) << 8 | ctypes.sizeof(_Part)
    assert library.dure_adamw_sizes() == ours, "native.py is not adamw.h's mirror"
    return library


class Passes:
    """Passes over some tensors, cut into parts, that any number of threads do together."""

    def __init__(self, tensors: list[tuple[TensorStruct, StepStruct, int, Pass]]) -> None:
        """tensors: each with its step's constants, its number of values, and what is computed."""
        ranges = [
            (tensor, step, first, min(PART, n - first), action)
            for tensor, step, n, action in tensors
            for first in range(0, n, PART)
        ]
        self._counts = [-(-n // PART) for _, _, n, _ in tensors]
        self._parts = (_Part * len(ranges))()
        for part, (tensor, step, first, n, action) in zip(self._parts, ranges, strict=True):
            part.tensor, part.step = ctypes.pointer(tensor), ctypes.pointer(step)
            part.first, part.n, part.action = first, n, action
        self._next = ctypes.c_int64(0)
        self.n_parts = len(ranges)

    def do(self) -> None:
        """Compute parts until none is left. The interpreter is free for others meanwhile."""
        loaded().dure_adamw(ctypes.byref(self._parts), self.n_parts, ctypes.byref(self._next))

    @property
    def has_begun(self) -> bool:
        """Whether a thread has taken a part. None stops before all are computed."""
        return self._next.value > 0

    def squares(self) -> list[list[float]]:
        """Return the sums of the gradient's squares: of each tensor those of its parts."""
        sums = iter([part.squares for part in self._parts])
        return [[next(sums) for _ in range(count)] for count in self._counts]

    def n_left_out(self) -> int:
        """Return how many blocks were left as they were, as their gradient is not finite."""
        return sum(part.left_out for part in self._parts)
