"""Nodes of llama.cpp's graph that its threads compute with our functions. Source: `native/dispatch.c`."""

from __future__ import annotations

import contextlib
import ctypes

from dure.engine.compute.native import library
from dure.errors import ResourceError

__all__ = ["OwnNodes"]


class OwnNodes:
    """What one context of llama.cpp's needs for attention and products of ours; close it after the context.

    Raises ResourceError where there is no memory.
    """

    def __init__(self) -> None:
        handle = library().dure_kernels_new()
        if not handle:
            raise ResourceError("there is no memory for a context: stop other programs")
        self.handle = ctypes.c_void_p(handle)
        """`user_data` of `sums_callback`."""

    def close(self) -> None:
        """Give the memory back."""
        handle, self.handle = self.handle, ctypes.c_void_p(None)
        library().dure_kernels_free(handle)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, TypeError):  # where Python is at its end
            self.close()
