"""llama.cpp's log: kept from the terminal, its last warnings and errors at hand.

Knows how llama.cpp reports; refuses to know what was being done.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

__all__ = ["captured_log", "silence_llama"]

_WARN = 3  # GGML_LOG_LEVEL_WARN; errors are 4
_KEPT_LINES = 20
_lines: list[str] = []


@cache
def silence_llama() -> Any:
    """Start llama.cpp in this process, its log captured. Called before anything is loaded."""
    import llama_cpp.llama_cpp as lib

    def write(level: int, text: bytes, _: Any) -> None:
        if level in (_WARN, _WARN + 1):
            _lines.append(text.decode("utf-8", "replace").strip())
            del _lines[:-_KEPT_LINES]

    callback = lib.llama_log_callback(write)
    lib.llama_log_set(callback, ctypes.c_void_p(0))
    lib.llama_backend_init()
    return callback  # the cache keeps it: a collected callback crashes the process


def captured_log() -> list[str]:
    """Return the last warnings and errors that llama.cpp wrote, oldest first."""
    return list(_lines)
