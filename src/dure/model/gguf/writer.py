"""Writes a GGUF file in one pass, complete or not at all. It knows nothing about reading."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, Self

from dure.errors import ResourceError
from dure.model.gguf.values import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAX_ALIGNMENT,
    U32,
    TensorSpec,
    Value,
    ValueKind,
    aligned,
    default_value,
    encoded,
    is_alignment,
    one_line,
    value_of,
)
from dure.whole_file import part_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Sink(Protocol):
    """Where a file's bytes go, in order; its methods raise ResourceError if that fails."""

    def open(self, size_bytes: int) -> None:
        """Get ready for this number of bytes."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes."""

    def finish(self) -> None:
        """End the file: all bytes have come."""

    def drop(self) -> None:
        """Let go of what is held; before `finish`, of the file too."""


class GgufWriter:
    """Writes a model of the given tensors in one pass: to a path, only when it is complete, or to a sink.

    with GgufWriter(path, metadata, specs) as writer:
        for spec in specs:
            writer.write(data of spec)  # uint8, in as many chunks as you like

    For a path, the bytes go to `<path>.part`, which is renamed at the end and deleted on an exception.
    A `Value` in `metadata` is copied as it is, anything else gets the kind llama.cpp expects;
    `general.alignment` is set from `alignment`. `sha256`, `header` and `size_bytes` are the file's.
    Raises ModelError for tensors llama.cpp cannot hold, ResourceError for a full disk, and ValueError
    when the chunks do not add up to the tensors.
    """

    def __init__(
        self,
        target: Path | Sink,
        metadata: Mapping[str, Value | bool | int | float | str],
        tensors: Sequence[TensorSpec],
        alignment: int = DEFAULT_ALIGNMENT,
    ) -> None:
        if not is_alignment(alignment):
            raise ValueError(f"alignment {alignment} is not a power of two to {MAX_ALIGNMENT}")
        self._tensors = tuple(tensors)
        self._alignment = alignment
        self.header = self._encode_header(metadata)
        self._digest = hashlib.sha256()
        self._current = 0  # the tensor that is being written, and its bytes so far
        self._done = 0
        self._is_open = False
        padded = (aligned(tensor.size_bytes, alignment) for tensor in self._tensors)
        self.size_bytes = len(self.header) + sum(padded)
        self._sink: Sink = _FileSink(target) if isinstance(target, Path) else target

    @property
    def sha256(self) -> str:
        """Return the SHA-256 in hex of everything written so far; after the end, of the file."""
        return self._digest.hexdigest()

    def __enter__(self) -> Self:
        try:
            self._sink.open(self.size_bytes)
            self._is_open = True
            self._put(self.header)
        except BaseException:
            self._drop()
            raise
        return self

    def write(self, chunk: bytes | bytearray | memoryview | NDArray[Any]) -> None:
        """Append to the tensor that is not complete yet; a chunk never goes over its end."""
        if not len(chunk):
            return
        data = memoryview(chunk).cast("B")  # type: ignore[arg-type]  # numpy's stubs lack buffers
        if self._current == len(self._tensors):
            raise ValueError(f"{data.nbytes} bytes arrived after the last tensor")
        tensor = self._tensors[self._current]
        left = tensor.size_bytes - self._done
        if data.nbytes > left:
            raise ValueError(f"{tensor.name} lacks {left} bytes but {data.nbytes} arrived")
        self._put(data)
        self._done += data.nbytes
        if self._done == tensor.size_bytes:
            self._put(bytes(-self._done % self._alignment))
            self._current, self._done = self._current + 1, 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._drop()

    def _finish(self) -> None:
        if self._current < len(self._tensors):
            raise ValueError(f"{self._tensors[self._current].name} was not written completely")
        self._sink.finish()

    def _drop(self) -> None:
        self._is_open = False
        self._sink.drop()

    def _put(self, data: bytes | memoryview) -> None:
        if not self._is_open:
            raise ValueError("write inside `with GgufWriter(...)`")
        view = memoryview(data)
        self._digest.update(view)
        self._sink.write(view)

    def _encode_header(self, metadata: Mapping[str, object]) -> bytes:
        values = {key: default_value(value) for key, value in metadata.items()}
        values.pop(ALIGNMENT_KEY, None)
        if self._alignment != DEFAULT_ALIGNMENT:
            values[ALIGNMENT_KEY] = value_of(ValueKind.UINT32, self._alignment)
        if len({tensor.name for tensor in self._tensors}) < len(self._tensors):
            raise ValueError("two tensors have the same name")
        pieces = [struct.pack("<4sIQQ", b"GGUF", 3, len(self._tensors), len(values))]
        for key, value in values.items():
            pieces += [encoded(ValueKind.STRING, key), U32.pack(value.kind), bytes(value.raw)]
        offset = 0
        for tensor in self._tensors:
            tensor.check()
            n_dims = len(tensor.shape)
            pieces.append(encoded(ValueKind.STRING, tensor.name) + U32.pack(n_dims))
            pieces.append(struct.pack(f"<{n_dims}QIQ", *tensor.shape, tensor.type.id, offset))
            offset += aligned(tensor.size_bytes, self._alignment)
        header = b"".join(pieces)
        return header.ljust(aligned(len(header), self._alignment), b"\0")


def write_header(
    path: Path,
    metadata: Mapping[str, Value | bool | int | float | str],
    tensors: Sequence[TensorSpec],
) -> None:
    """Write a model without its content, which takes no disk: for what looks at headers alone."""
    writer = GgufWriter(path, metadata, tensors)
    path.write_bytes(writer.header)
    os.truncate(path, writer.size_bytes)


class _FileSink:
    """A file that is there when it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part_path = part_of(path)
        self._file: BinaryIO | None = None
        self._size_bytes = 0

    def open(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        with self._telling():
            if shutil.disk_usage(self._path.parent).free < size_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._file = self._part_path.open("wb", buffering=0)

    def write(self, data: memoryview) -> None:
        assert self._file is not None, "open comes first"
        with self._telling():
            while data:
                data = data[self._file.write(data) :]

    def finish(self) -> None:
        assert self._file is not None, "open comes first"
        with self._telling():
            os.fsync(self._file.fileno())
            self._part_path.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def drop(self) -> None:
        """Close the file; unless it was renamed, it is deleted."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._part_path.unlink(missing_ok=True)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn a failed system call into a ResourceError."""
        try:
            yield
        except OSError as error:
            folder = self._path.parent
            if error.errno not in _NO_SPACE:
                raise ResourceError(
                    f"{one_line(str(self._path))} cannot be written: {error.strerror}"
                ) from error
            raise ResourceError(
                f"disk full ({error.strerror}): {self._size_bytes} bytes needed in "
                f"{one_line(str(folder))}, {shutil.disk_usage(folder).free} free",
                "make room there",
            ) from error
