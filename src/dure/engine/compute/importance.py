"""What the weights of one context are multiplied with: the sum of the squares, gathered while it computes.

Knows what `importance.c` of `native/` exports. Refuses to know ranks, and what the sums are for.
"""

from __future__ import annotations

import ctypes

import numpy as np

from dure.engine.arrays import Floats, InputSums
from dure.engine.compute.native import library
from dure.errors import ResourceError

__all__ = ["InputGatherer"]

_MAX_NAME = 64  # GGML_MAX_NAME


class _InputSquares(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("width", ctypes.c_int64),
        ("n_matrices", ctypes.c_int64),
        ("n_counts", ctypes.c_int64),
        ("sums", ctypes.POINTER(ctypes.c_float)),
        ("counts", ctypes.POINTER(ctypes.c_int64)),
        ("name", ctypes.c_char * _MAX_NAME),
    )


class InputGatherer:
    """Gathers for one context. kernels: `CustomNodes.handle`."""

    def __init__(self, kernels: ctypes.c_void_p) -> None:
        self._kernels = kernels
        self._gathered: ctypes.c_void_p | None = None

    def gather(self, *, on: bool) -> InputSums:
        """Gather from now on, or stop; return what was gathered before. Raises ResourceError."""
        before: InputSums = self._read() if self._gathered else {}
        begun = library().dure_kernels_gather(self._kernels, on)
        self._gathered = ctypes.c_void_p(begun) if begun else None
        if on and not begun:
            raise _no_memory()
        return before

    def _read(self) -> dict[str, tuple[Floats, Floats]]:
        if library().dure_importance_lacks_memory(self._gathered):
            raise _no_memory()
        found: dict[str, tuple[Floats, Floats]] = {}
        while pointer := library().dure_importance_get(self._gathered, ctypes.c_int64(len(found))):
            one = _InputSquares.from_address(pointer)
            sums = np.ctypeslib.as_array(one.sums, (one.n_matrices * one.width,))
            counts = np.ctypeslib.as_array(one.counts, (one.n_counts,))
            rows = sums.reshape(one.n_counts, -1).copy()
            found[one.name.decode()] = rows, counts.astype(np.float32)
        return found


def _no_memory() -> ResourceError:
    return ResourceError("there is no memory for an importance matrix", "stop other programs")
