"""Attention that llama.cpp's threads compute in place of llama.cpp's own. Source: `native/attention.c`."""

from __future__ import annotations

import contextlib
import ctypes

from dure.engine.native import library
from dure.errors import ResourceError

__all__ = ["Attention"]


class Attention:
    """What one context of llama.cpp's needs for it; close it after the context.

    Raises ResourceError where there is no memory.
    """

    def __init__(self) -> None:
        handle = library().dure_attention_new()
        if not handle:
            raise ResourceError("there is no memory for attention: stop other programs")
        self.handle = ctypes.c_void_p(handle)
        """`user_data` of the callback, and of that of the sums."""

    @property
    def callback(self) -> int:
        """The address of a callback for llama.cpp, for a graph that needs no other."""
        return ctypes.cast(library().dure_nodes_callback, ctypes.c_void_p).value or 0

    def close(self) -> None:
        """Give the memory back."""
        handle, self.handle = self.handle, ctypes.c_void_p(None)
        library().dure_attention_free(handle)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, TypeError):  # where Python is at its end
            self.close()
