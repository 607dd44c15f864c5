"""Reads the header of one GGUF file and believes none of it unchecked.

Every count and length is compared with the bytes that are left before anything is allocated
or looped over. It knows nothing about split models.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

from dure.errors import ModelError
from dure.model.ggml import ggml_type
from dure.model.gguf.values import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    FORMATS,
    MAX_ALIGNMENT,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    U32,
    U64,
    Tensor,
    Value,
    ValueKind,
    aligned,
    is_alignment,
    one_line,
)

PART_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_MAX_HEADER_BYTES = 512 << 20  # a vocabulary of 262,144 tokens takes about 16 MiB
_MAX_ENTRIES = 65535  # metadata keys, and tensors, in a file; the largest models have 5,000
_MAX_KEY_BYTES = 65535
_READ_AHEAD_BYTES = 4 << 20


class ByteSource(Protocol):
    """The bytes of a file, here or elsewhere. size: how many there are."""

    size: int

    def read_into(self, target: memoryview, offset: int) -> int:
        """Fill `target` from byte `offset` and return how many bytes came. Raises DureError."""

    def close(self) -> None:
        """Let go of it. May be called twice."""


class LocalFile:
    """A file on this machine. Raises ModelError if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, _opened(path)
        self.size = os.fstat(self._file.fileno()).st_size

    def read_into(self, target: memoryview, offset: int) -> int:
        """Fill `target` from byte `offset` and return how many bytes came. Raises ModelError."""
        try:
            return os.preadv(self._file.fileno(), [target], offset)
        except OSError as error:
            name = one_line(str(self._path))
            raise ModelError(f"{name} cannot be read: {error.strerror}") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass(frozen=True)
class Part:
    """One file of a model, read and checked."""

    path: Path
    file: ByteSource
    size_bytes: int
    header: memoryview
    version: int
    alignment: int
    metadata: dict[str, Value]
    tensors: list[Tensor]


def read_part(path: Path, opened: Callable[[Path], ByteSource] = LocalFile) -> Part:
    """Open and check one file; the caller closes it. Raises ModelError, and what `opened` raises."""
    file = opened(path)
    try:
        return _Header(path, file).part()
    except BaseException:
        file.close()
        raise


def _opened(path: Path) -> BinaryIO:
    name = one_line(str(path))
    try:
        mode = path.stat().st_mode  # first, because opening a pipe would wait for its writer
        if stat.S_ISDIR(mode):
            raise ModelError(f"{name} is a folder", "name the .gguf file in it")
        if not stat.S_ISREG(mode):
            raise ModelError(f"{name} is a device or pipe", "name a .gguf file")
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        whole = ", all parts of a model must be in one folder"
        raise ModelError(
            f"{name} does not exist",
            "check the name" + (whole if PART_NAME.fullmatch(path.name) else ""),
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{name} cannot be read: {reason}") from None


class _Header:
    """Reads one file's header, and of the file no more than that, into `buffer`."""

    def __init__(self, path: Path, file: ByteSource) -> None:
        self.path = path
        self.file = file
        self.name = one_line(path.name)
        self.size = file.size
        self.buffer = bytearray()
        self.position = 0

    def part(self) -> Part:
        self._check_magic()
        version = self._version()
        n_tensors = self._count("tensors", 33)
        n_keys = self._count("metadata keys", 14)
        spans = self._metadata(n_keys)
        directory = [self._tensor(index) for index in range(n_tensors)]
        del self.buffer[self.position :]
        header = memoryview(self.buffer).toreadonly()
        metadata = {key: Value(kind, header[a:b]) for key, (kind, a, b) in spans.items()}
        alignment = self._alignment(metadata.get(ALIGNMENT_KEY))
        tensors = self._placed(directory, alignment)
        return Part(self.path, self.file, self.size, header, version, alignment, metadata, tensors)

    def fail(self, what: str, cure: str = "it is damaged, download it again") -> NoReturn:
        raise ModelError(f"{self.name}: {what}", cure)

    def take(self, n_bytes: int, what: str) -> int:
        """Return where the next `n_bytes` lie in `buffer`, and read them if they are not there yet."""
        start = self.position
        end = start + n_bytes
        if end > len(self.buffer):
            self._fill(end, what)
        self.position = end
        return start

    def _fill(self, end: int, what: str) -> None:
        cut = f"{what} needs bytes {self.position}..{end} but the file ends at {self.size}"
        if end > self.size:
            self.fail(cut, "it is truncated, download it again")
        if end > _MAX_HEADER_BYTES:
            self.fail(f"{what} makes the header longer than {_MAX_HEADER_BYTES} bytes")
        have = len(self.buffer)
        ahead = max(65536, min(have, _READ_AHEAD_BYTES))
        chunk = memoryview(bytearray(min(self.size, max(end, have + ahead)) - have))
        while len(self.buffer) < end:
            got = self.file.read_into(chunk, len(self.buffer))
            if not got:
                self.fail(f"{what} is cut off", "the file is being changed, wait and try again")
            self.buffer += chunk[:got]
            chunk = chunk[got:]

    def _u32(self, what: str) -> int:
        return int(U32.unpack_from(self.buffer, self.take(4, what))[0])

    def _u64(self, what: str) -> int:
        return int(U64.unpack_from(self.buffer, self.take(8, what))[0])

    def _text(self, what: str, max_bytes: int) -> str:
        length = self._u64(what)
        if not 1 <= length <= max_bytes:
            self.fail(f"{what} is {length} bytes long, not 1 to {max_bytes}")
        start = self.take(length, what)
        try:
            return self.buffer[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8")

    def _check_magic(self) -> None:
        if self.size == 0:
            self.fail("the file is empty", "download it again")
        self._fill(min(self.size, 64), "the first bytes")
        if self.buffer[:4] != b"GGUF":
            self.fail(*_what_else(bytes(self.buffer[:64])))
        self.take(4, "the magic")

    def _version(self) -> int:
        version = self._u32("the version")
        if version & 0xFFFF == 0:
            self.fail("this is a big-endian GGUF", "use a little-endian one")
        if version == 1:
            self.fail("GGUF version 1 is too old", "convert the model again")
        if version not in (2, 3):
            self.fail(f"GGUF version {version} is unknown", "use a file of version 2 or 3")
        return version

    def _count(self, what: str, min_bytes: int) -> int:
        count = self._u64(f"the number of {what}")
        if count > _MAX_ENTRIES:
            self.fail(f"it claims {count} {what}, more than the {_MAX_ENTRIES} dure reads")
        if count * min_bytes > self.size - self.position:
            self.fail(f"{count} {what} cannot be in a file of {self.size} bytes")
        return count

    def _metadata(self, n_keys: int) -> dict[str, tuple[ValueKind, int, int]]:
        spans: dict[str, tuple[ValueKind, int, int]] = {}
        for index in range(n_keys):
            key = self._text(f"metadata key {index}", _MAX_KEY_BYTES)
            if key in spans:
                self.fail(f"metadata key {one_line(key)} is there twice")
            what = f"the value of {one_line(key)}"
            kind = self._kind(what)
            start = self.position
            if kind is ValueKind.ARRAY:
                self._skip_array(what)
            else:
                self._skip_items(kind, 1, what)
            spans[key] = (kind, start, self.position)
        return spans

    def _kind(self, what: str) -> ValueKind:
        number = self._u32(what)
        if number > max(ValueKind):
            self.fail(f"{what} is of the unknown kind {number}")
        return ValueKind(number)

    def _skip_array(self, what: str) -> None:
        item_kind = self._kind(what)
        if item_kind is ValueKind.ARRAY:
            self.fail(f"{what} is an array of arrays, which llama.cpp does not read")
        self._skip_items(item_kind, self._u64(what), what)

    def _skip_items(self, kind: ValueKind, count: int, what: str) -> None:
        item_bytes = 8 if kind is ValueKind.STRING else struct.calcsize(FORMATS[kind])
        if count * item_bytes > self.size - self.position:
            self.take(count * item_bytes, what)  # tells that the file is too short
        if kind is not ValueKind.STRING:
            self.take(count * item_bytes, what)
            return
        buffer, length_at = self.buffer, U64.unpack_from
        for _ in range(count):  # 300,000 times for a large vocabulary
            position = self.position
            if position + 8 > len(buffer):
                self._fill(position + 8, what)
            length = length_at(buffer, position)[0]
            if position + 8 + length > self.size:
                self.take(8 + length, what)  # tells that the file is too short
            self.position = position + 8 + length
        self.take(0, what)

    def _tensor(self, index: int) -> tuple[str, tuple[int, ...], int, int]:
        """Read name, shape, number of the type, and offset from the start of the data."""
        name = self._text(f"the name of tensor {index}", MAX_NAME_BYTES)
        what = f"the entry of tensor {one_line(name)}"
        n_dims = self._u32(what)
        if not 1 <= n_dims <= MAX_DIMENSIONS:
            self.fail(f"tensor {one_line(name)} has {n_dims} dimensions, not 1 to 4")
        start = self.take(8 * n_dims + 12, what)
        *shape, type_id, offset = struct.unpack_from(f"<{n_dims}QIQ", self.buffer, start)
        return name, tuple(shape), type_id, offset

    def _alignment(self, value: Value | None) -> int:
        if value is None:
            return DEFAULT_ALIGNMENT
        if value.kind is not ValueKind.UINT32:
            self.fail(f"{ALIGNMENT_KEY} must be UINT32 but is {value.kind.name}")
        alignment = int(value.value)
        if not is_alignment(alignment):
            self.fail(f"{ALIGNMENT_KEY} is {alignment}, not a power of two up to {MAX_ALIGNMENT}")
        return alignment

    def _placed(
        self, directory: Sequence[tuple[str, tuple[int, ...], int, int]], alignment: int
    ) -> list[Tensor]:
        data_start = aligned(self.position, alignment)
        tensors = []
        for name, shape, type_id, offset in directory:
            try:
                type_ = ggml_type(type_id)
            except ModelError as error:
                raise ModelError(
                    f"{self.name}: tensor {one_line(name)}: {error.problem}", error.cure
                ) from None
            tensor = Tensor(name, shape, type_, self.path, data_start + offset)
            try:
                tensor.check()
            except ModelError as error:
                self.fail(str(error))
            self._check_place(tensor, alignment)
            tensors.append(tensor)
        in_file_order = sorted(tensors, key=lambda tensor: tensor.offset)
        for before, after in pairwise(in_file_order):
            if before.offset + before.size_bytes > after.offset:
                self.fail(f"tensors {one_line(before.name)} and {one_line(after.name)} overlap")
        return tensors

    def _check_place(self, tensor: Tensor, alignment: int) -> None:
        name, end = one_line(tensor.name), tensor.offset + tensor.size_bytes
        if tensor.offset % alignment:
            self.fail(f"tensor {name} starts at {tensor.offset}, not a multiple of {alignment}")
        if end > self.size:
            self.fail(
                f"tensor {name} needs bytes {tensor.offset}..{end} "
                f"but the file ends at {self.size}",
                "it is truncated, download it again",
            )


def _what_else(first: bytes) -> tuple[str, str]:
    """Return what a file with these first bytes is instead, and the cure."""
    text = first.lstrip().lower()
    if first.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer", "download the file itself"
    if first.startswith(b"PK\x03\x04"):
        return "this is a zip archive or a PyTorch checkpoint", "convert it to GGUF first"
    if first[8:10] == b'{"':
        return "this is a safetensors file", "convert it to GGUF first"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return "this is a web page or an error message", "download the file itself"
    if first[:4] in (b"lmgg", b"tjgg", b"fmgg", b"algg"):
        return "this is GGML, the format before GGUF", "convert the model again"
    if first.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh")):
        return "this is a compressed file", "unpack it first"
    if not first.strip(b"\0"):
        return "the file begins with zeros", "the download was not finished, download it again"
    return (
        f"this is not a GGUF file: it begins with {one_line(first[:4].decode('latin-1'))}",
        "name a .gguf file",
    )
