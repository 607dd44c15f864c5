"""The KV cache of one llama.cpp context: changing it, saving sequences, and states to return to.

Knows what llama.cpp can cut back: all positions of a sequence; the last ones, if layers see a window of
positions; none, if the model has a running state. Refuses to know batches and logits.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from dure.engine.kv import Clear, Copy, DropState, Forget, KeepState, KvOp, RestoreState, Swap
from dure.engine.saved.sealed_file import is_whole, seal
from dure.errors import EngineError, ResourceError
from dure.whole_file import part_of

__all__ = ["KvCache"]

_END = -1  # as llama.cpp's functions on the KV cache take it
_ALL, _PARTIAL = lib.LLAMA_STATE_SEQ_FLAGS_NONE, lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY

Bytes = npt.NDArray[np.uint8]


class KvCache:
    """The KV cache of a context. n_window: of layers that hold no other positions; 0: there are none.

    chunked: the window does not slide, but begins anew every n_window positions.
    """

    def __init__(self, context: Any, n_window: int, *, chunked: bool = False) -> None:
        self._context, self._memory = context, lib.llama_get_memory(context)
        self._n_window, self._chunked = n_window, chunked
        self._states: dict[str, Bytes] = {}

    def change(self, ops: Iterable[KvOp]) -> None:
        """Change the KV cache, in this order. Raises EngineError if llama.cpp's cannot do it."""
        for op in ops:
            match op:
                case Forget(sequence, start):
                    self._forget(sequence, start)
                case Clear():
                    lib.llama_memory_clear(self._memory, False)
                    self._states.clear()
                case Copy(source, target, n):
                    self._copy(source, target, n)
                case Swap(sequence, other):
                    self._swap(sequence, other)
                case KeepState(sequence, key):
                    self._states[key] = self._taken(sequence, _PARTIAL)
                case RestoreState(sequence, key, n):
                    self._restore(sequence, key, n)
                case DropState(key):
                    self._states.pop(key, None)

    def _forget(self, sequence: int, start: int) -> None:
        if start and self._length(sequence) <= start:
            return
        if not lib.llama_memory_seq_rm(self._memory, sequence, start, _END):
            raise EngineError(
                f"positions from {start} on of sequence {sequence} cannot be forgotten in this cache"
            )
        if start > 0:
            self._check_window(sequence, start)

    def _check_window(self, sequence: int, n: int) -> None:
        """Check that a sequence of n positions has all that the next one sees."""
        if not self._n_window:
            return
        first = n // self._n_window * self._n_window if self._chunked else n - self._n_window + 1
        if not 0 <= lib.llama_memory_seq_pos_min(self._memory, sequence) <= max(0, first):
            raise EngineError(
                f"sequence {sequence} was cut back to {n} positions, but its window has moved on"
            )

    def _copy(self, source: int, target: int, n: int | None) -> None:
        """Copy through a buffer: llama.cpp's own copy between streams moves all that a stream may hold."""
        if n is None or n == self._length(source):
            self._put(self._taken(source), target)
        elif self._n_window:
            self._copy_window(source, target, n)
        else:
            self._put(self._taken(source), target)
            self._forget(target, n)

    def _copy_window(self, source: int, target: int, n: int) -> None:
        """Copy the first n positions, with the window before them. The source is cut back meanwhile."""
        whole = self._taken(source)
        self._forget(source, n)
        self._put(self._taken(source), target)
        self._put(whole, source)

    def _swap(self, sequence: int, other: int) -> None:
        held, other_held = self._taken(sequence), self._taken(other)
        self._put(held, other)
        self._put(other_held, sequence)

    def _restore(self, sequence: int, key: str, n: int) -> None:
        state = self._states.get(key)
        if state is None:
            raise EngineError(f"the state {key} to return to is not there")
        self._write(state, sequence, _PARTIAL)
        if (
            not lib.llama_memory_seq_rm(self._memory, sequence, n, _END)
            or self._length(sequence) != n
        ):
            raise EngineError(f"sequence {sequence} cannot return to its first {n} positions")

    def _length(self, sequence: int) -> int:
        """Count the positions of a sequence."""
        return int(lib.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def _taken(self, sequence: int, part: int = _ALL) -> Bytes:
        """Return what a sequence holds, as bytes; none if it is empty. part: what of it."""
        if not self._length(sequence):
            return np.empty(0, np.uint8)
        size = lib.llama_state_seq_get_size_ext(self._context, sequence, part)
        held = np.empty(size, np.uint8)
        lib.llama_state_seq_get_data_ext(self._context, _pointer(held), held.size, sequence, part)
        return held

    def _put(self, held: Bytes, sequence: int) -> None:
        """Let a sequence hold what `_taken` gave, and nothing else."""
        lib.llama_memory_seq_rm(self._memory, sequence, 0, _END)
        if held.size:
            self._write(held, sequence, _ALL)

    def _write(self, held: Bytes, sequence: int, part: int) -> None:
        if not lib.llama_state_seq_set_data_ext(
            self._context, _pointer(held), held.size, sequence, part
        ):
            raise EngineError(f"the KV cache has no room to copy to sequence {sequence}")

    # ------------------------------------------------------------ files

    def save(self, sequence: int, path: Path) -> int:
        """Write a sequence; return the bytes. Raises ResourceError if it cannot be written."""
        part = part_of(path)
        tokens = (lib.llama_token * 0)()
        written = lib.llama_state_seq_save_file(
            self._context, os.fsencode(part), sequence, tokens, 0
        )
        if not written:
            part.unlink(missing_ok=True)
            raise ResourceError(
                f"{path.name} cannot be written in {path.parent}", "make room there"
            )
        try:
            seal(part)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise ResourceError(
                f"{path} cannot be written ({error.strerror})", "make room"
            ) from error
        return int(written)

    def load(self, sequence: int, path: Path, n_tokens: int) -> bool:
        """Read a sequence of n_tokens positions; False, and it is empty, if that fails."""
        n_read, tokens = ctypes.c_size_t(), (lib.llama_token * 1)()
        read = is_whole(path) and lib.llama_state_seq_load_file(
            self._context, os.fsencode(path), sequence, tokens, 1, ctypes.byref(n_read)
        )
        if read and self._length(sequence) == n_tokens:
            return True
        lib.llama_memory_seq_rm(self._memory, sequence, 0, _END)
        return False


def _pointer(data: Bytes) -> Any:
    return ctypes.cast(data.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
