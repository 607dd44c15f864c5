"""Reads one safetensors file, and believes none of its header unchecked.

Knows the container: header, offsets, types. Refuses to know what the tensors are for.
Source of the format: https://github.com/huggingface/safetensors (`README.md`, `tensor.rs`).
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from dure.convert.huggingface.json_file import parsed
from dure.convert.model import Bytes
from dure.errors import ModelError
from dure.model.gguf.values import one_line

__all__ = ["SafetensorsFile", "StoredTensor"]

_MOST_HEADER_BYTES = 32 << 20  # the largest published ones have 3 MB
_MOST_DIMENSIONS = 8
_TYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file. shape: as torch writes it, the row length last. type: safetensors' name."""

    name: str
    type: str
    shape: tuple[int, ...]
    file: SafetensorsFile
    offset: int

    @property
    def n_elements(self) -> int:
        """Return the product of `shape`."""
        return math.prod(self.shape)

    @property
    def element_bytes(self) -> int:
        """Return the bytes of one element."""
        return _TYPE_BYTES[self.type]

    def read(self, start: int, stop: int) -> Bytes:
        """Return the bytes of the elements from `start` to `stop`. Raises ModelError."""
        size = self.element_bytes
        return self.file.read(self.offset + start * size, (stop - start) * size)


class SafetensorsFile:
    """One file, opened and checked. Raises ModelError if it is damaged, or no such file."""

    def __init__(self, path: Path) -> None:
        self.path, self._name = path, one_line(path.name)
        self._file = self._opened()
        try:
            self._size = os.fstat(self._file).st_size
            self.tensors = self._tensors(self._header())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self, offset: int, n_bytes: int) -> Bytes:
        """Return bytes of the file. Raises ModelError if they are not there."""
        data = np.empty(n_bytes, dtype=np.uint8)
        view, done = data.data, 0
        while done < n_bytes:
            try:
                got = os.preadv(self._file, [view[done:]], offset + done)
            except OSError as error:
                raise ModelError(f"{self._name} cannot be read: {error.strerror}") from error
            if not got:
                self._fail("it became shorter while it was read", "wait until it is written")
            done += got
        return data

    def _opened(self) -> int:
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ModelError(f"{self._name} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            self._fail("it is no file", "put the model's own files into the folder")
        return file

    def _fail(self, problem: str, cure: str = "it is damaged, get it again") -> NoReturn:
        raise ModelError(f"{self._name}: {problem}", cure)

    def _header(self) -> dict[str, Any]:
        if self._size < 8:
            self._fail(f"it has {self._size} bytes, fewer than a header", "get it again")
        first = bytes(self.read(0, min(self._size, 64)))
        if first.startswith(b"version https://git-lfs"):
            self._fail("it is Git LFS's pointer, not the file", "run `git lfs pull` in its folder")
        self._data = 8 + int.from_bytes(first[:8], "little")
        if self._data > self._size:
            self._fail(f"its header ends at byte {self._data}, the file at {self._size}")
        if self._data - 8 > _MOST_HEADER_BYTES:
            self._fail(
                f"its header has {self._data - 8} bytes, more than the {_MOST_HEADER_BYTES} dure reads"
            )
        return parsed(bytes(self.read(8, self._data - 8)), f"the header of {self._name}")

    def _tensors(self, header: Mapping[str, Any]) -> dict[str, StoredTensor]:
        """Return the tensors: each has the bytes of its shape, and together they fill the file."""
        spans: list[tuple[int, int, StoredTensor]] = []
        for name, entry in header.items():
            if name != "__metadata__":
                spans.append(self._span(name, entry))
        spans.sort(key=lambda span: span[:2])
        end = 0
        for start, stop, tensor in spans:
            if start < end:
                self._fail(f"tensor {one_line(tensor.name)} overlaps the one before it")
            if start > end:
                self._fail(
                    f"{start - end} bytes before tensor {one_line(tensor.name)} are nobody's"
                )
            end = stop
        if self._data + end != self._size:
            self._fail(f"its tensors end at byte {self._data + end}, the file at {self._size}")
        return {tensor.name: tensor for _, _, tensor in spans}

    def _span(self, name: str, entry: object) -> tuple[int, int, StoredTensor]:
        label = f"tensor {one_line(name)}"
        if not isinstance(entry, dict):
            self._fail(f"{label} has no entry that can be read")
        kind: Any = entry.get("dtype")
        shape: Any = entry.get("shape")
        span: Any = entry.get("data_offsets")
        if not isinstance(kind, str) or kind not in _TYPE_BYTES:
            self._fail(f"{label} is of the unknown type {one_line(str(kind))}", "save it in BF16")
        if not _are_sizes(shape) or len(shape) > _MOST_DIMENSIONS:
            self._fail(f"{label} has no legal shape")
        if not _are_sizes(span) or len(span) != 2:
            self._fail(f"{label} has no legal offsets")
        start, stop = span
        needed = math.prod(shape) * _TYPE_BYTES[kind]
        if stop - start != needed:
            self._fail(
                f"{label} of shape {shape} in {kind} needs {needed} bytes, not {stop - start}"
            )
        if self._data + stop > self._size:
            self._fail(
                f"{label} ends at byte {self._data + stop}, the file at {self._size}",
                "it is cut short, get it again",
            )
        return start, stop, StoredTensor(name, kind, tuple(shape), self, self._data + start)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(one) is int and 0 <= one < 1 << 62 for one in values
    )
