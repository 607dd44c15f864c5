"""Custom nodes: those of llama.cpp's graph that its threads compute with our functions, from `native/`."""

from __future__ import annotations

import contextlib
import ctypes

from dure.engine.compute.native import library
from dure.errors import ResourceError

__all__ = ["CustomNodes"]


class CustomNodes:
    """Holds what one context of llama.cpp needs for our attention and products. Close it after the context.

    Raises ResourceError if there is no memory.
    """

    def __init__(self) -> None:
        handle = library().dure_kernels_new()
        if not handle:
            raise ResourceError("there is no memory for a context", "stop other programs")
        self.handle = ctypes.c_void_p(handle)
        """`user_data` of `graph_callback`."""

    def close(self) -> None:
        """Give the memory back."""
        handle, self.handle = self.handle, ctypes.c_void_p(None)
        library().dure_kernels_free(handle)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, TypeError):  # Python may be at its end
            self.close()
