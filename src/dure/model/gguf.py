"""GGUF files: checked before they are believed, and written in one pass.

Knows the container: header, metadata, tensor directory, split files. It knows nothing about
architectures, and it never decodes a tensor. Every count and length in a file is compared
with the bytes that are left before anything is allocated or looped over.
Source of the format: llama.cpp `gguf.h`.
"""

from __future__ import annotations

import builtins
import errno
import hashlib
import math
import os
import re
import shutil
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, Self

from dure.errors import ModelError
from dure.model.ggml import GgmlType, ggml_type

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "GgufFile",
    "GgufWriter",
    "Tensor",
    "TensorSpec",
    "Value",
    "ValueKind",
    "array_of",
    "open_gguf",
    "value_of",
]

DEFAULT_ALIGNMENT = 32
_ALIGNMENT_KEY = "general.alignment"
_MAX_ALIGNMENT = 65536
_MAX_HEADER_BYTES = 512 << 20  # a vocabulary of 262,144 tokens takes about 16 MiB
_MAX_ENTRIES = 65535  # metadata keys, and tensors, in a file; the largest models have 5,000
_MAX_KEY_BYTES = 65535
_MAX_NAME_BYTES = 63  # GGML_MAX_NAME without its closing zero
_MAX_DIMENSIONS = 4
_INT64_MAX = (1 << 63) - 1
_READ_AHEAD_BYTES = 4 << 20
_SAMPLE_BYTES = 4096
_PART_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class ValueKind(IntEnum):
    """What a metadata value is. Source: `gguf_type` of llama.cpp."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_FORMATS = {
    ValueKind.UINT8: "B",
    ValueKind.INT8: "b",
    ValueKind.UINT16: "H",
    ValueKind.INT16: "h",
    ValueKind.UINT32: "I",
    ValueKind.INT32: "i",
    ValueKind.FLOAT32: "f",
    ValueKind.BOOL: "?",
    ValueKind.UINT64: "Q",
    ValueKind.INT64: "q",
    ValueKind.FLOAT64: "d",
}
_FLOATS = (ValueKind.FLOAT32, ValueKind.FLOAT64)
_INTEGERS = tuple(set(_FORMATS) - {*_FLOATS, ValueKind.BOOL})


@dataclass(frozen=True, slots=True)
class Value:
    """A metadata value as it lies in the file; `raw` leaves out the number of its kind."""

    kind: ValueKind
    raw: bytes | memoryview

    @property
    def item_kind(self) -> ValueKind:
        """The kind of an array's elements; of anything else, its own."""
        if self.kind is not ValueKind.ARRAY:
            return self.kind
        return ValueKind(_U32.unpack_from(self.raw)[0])

    @property
    def count(self) -> int:
        """The number of an array's elements; 1 for anything else."""
        return int(_U64.unpack_from(self.raw, 4)[0]) if self.kind is ValueKind.ARRAY else 1

    @property
    def value(self) -> Any:
        """Decoded: an int, float, bool or str, or a list of them. Bad UTF-8 shows as U+FFFD."""
        if self.kind is not ValueKind.ARRAY:
            return self._items(0, 1)[0]
        return self._items(12, self.count)

    def _items(self, start: int, count: int) -> list[Any]:
        kind = self.item_kind
        if kind is not ValueKind.STRING:
            return list(struct.unpack_from(f"<{count}{_FORMATS[kind]}", self.raw, start))
        texts = []
        for _ in range(count):
            end = start + 8 + _U64.unpack_from(self.raw, start)[0]
            texts.append(str(self.raw[start + 8 : end], "utf-8", "replace"))
            start = end
        return texts


def value_of(kind: ValueKind, value: int | float | bool | str) -> Value:
    """A scalar or string to be written. Raises ValueError when `kind` cannot hold it."""
    return Value(kind, _encoded(kind, value))


def array_of(item_kind: ValueKind, values: Sequence[Any]) -> Value:
    """An array to be written. Raises ValueError when `item_kind` cannot hold an element."""
    items = b"".join(_encoded(item_kind, item) for item in values)
    return Value(ValueKind.ARRAY, _U32.pack(item_kind) + _U64.pack(len(values)) + items)


def _encoded(kind: ValueKind, value: Any) -> bytes:
    if kind is ValueKind.STRING:
        text = value.encode("utf-8")
        return _U64.pack(len(text)) + bytes(text)
    if kind not in _FORMATS:
        raise ValueError(f"{value!r} cannot be an {kind.name}: use array_of")
    try:
        return struct.pack("<" + _FORMATS[kind], value)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{value!r} cannot be a {kind.name}: {error}") from None


def _guessed(value: object) -> Value:
    """The kind that llama.cpp expects most often for a Python value."""
    match value:
        case Value():
            return value
        case bool():
            return value_of(ValueKind.BOOL, value)
        case str():
            return value_of(ValueKind.STRING, value)
        case int():
            return value_of(ValueKind.UINT32 if value >= 0 else ValueKind.INT32, value)
        case float():
            return value_of(ValueKind.FLOAT32, value)
    raise ValueError(f"{value!r} has no obvious kind: use value_of or array_of")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written; `shape` is in ggml's order, the row length first."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType

    @property
    def n_elements(self) -> int:
        """The product of `shape`."""
        return math.prod(self.shape)

    @property
    def n_rows(self) -> int:
        """The product of `shape` without its first number."""
        return math.prod(self.shape[1:])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of `shape[0]` elements."""
        return self.type.row_bytes(self.shape[0])

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows, without padding."""
        return self.n_rows * self.row_bytes

    def check(self) -> None:
        """Raises ModelError when llama.cpp could not hold such a tensor."""
        label = f"tensor {_shown(self.name)}"
        if not 1 <= len(self.name.encode()) <= _MAX_NAME_BYTES or "\0" in self.name:
            raise ModelError(f"{label} has a name that is not 1 to {_MAX_NAME_BYTES} bytes long")
        if not 1 <= len(self.shape) <= _MAX_DIMENSIONS or min(self.shape) < 1:
            raise ModelError(f"{label} has the shape {self.shape}: 1 to 4 sizes from 1 are legal")
        # no type has more than 8 bytes an element
        if self.n_elements > _INT64_MAX // 8:
            raise ModelError(f"{label} has the impossible shape {self.shape}")
        if self.shape[0] % self.type.block_size:
            raise ModelError(
                f"{label} has rows of {self.shape[0]} elements, which {self.type.name} "
                f"cannot store in blocks of {self.type.block_size}"
            )


@dataclass(frozen=True, slots=True)
class Tensor(TensorSpec):
    """A tensor in a file: `size_bytes` bytes from the absolute `offset` of `path`."""

    path: Path
    offset: int


@dataclass(frozen=True)
class _Part:
    """One file of a model, read and checked."""

    path: Path
    file: BinaryIO
    size_bytes: int
    header: memoryview
    version: int
    alignment: int
    metadata: dict[str, Value]
    tensors: list[Tensor]


class GgufFile:
    """A model's metadata and tensor directory; the weights stay on disk until `read`.

    A split model is one object: `paths` has all its parts, `metadata` is the first part's.
    Use it as a context manager or call `close`; metadata may be used afterwards.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = {part.path: part for part in parts}
        self.paths = tuple(self._parts)
        self.size_bytes = sum(part.size_bytes for part in parts)
        self.version = parts[0].version
        self.alignment = parts[0].alignment
        self.metadata: Mapping[builtins.str, Value] = MappingProxyType(parts[0].metadata)
        self.tensors: Mapping[builtins.str, Tensor] = MappingProxyType(
            {tensor.name: tensor for part in parts for tensor in part.tensors}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files. May be called twice."""
        for part in self._parts.values():
            part.file.close()

    @property
    def architecture(self) -> builtins.str:
        """`general.architecture`. Raises ModelError when the file does not tell it."""
        return self.str("general.architecture")

    @cached_property
    def fingerprint(self) -> builtins.str:
        """sha256 in hex of the headers, the sizes and both ends of every tensor.

        It tells models apart by content, is the same on every machine, and reads little.
        Raises ModelError when a file was truncated meanwhile.
        """
        digest = hashlib.sha256()
        for part in self._parts.values():
            digest.update(_U64.pack(len(part.header)) + _U64.pack(part.size_bytes))
            digest.update(part.header)
            for tensor in part.tensors:
                size = min(_SAMPLE_BYTES, tensor.size_bytes)
                digest.update(self.read(tensor, 0, size))
                digest.update(self.read(tensor, tensor.size_bytes - size, size))
        return digest.hexdigest()

    def read(self, tensor: Tensor, start: builtins.int, size: builtins.int) -> memoryview:
        """`size` bytes of a tensor's data from its byte `start`; any thread may call it.

        Raises ModelError when the file can no longer be read that far, and ValueError for a
        range outside the tensor.
        """
        if start < 0 or size < 0 or start + size > tensor.size_bytes:
            raise ValueError(f"{tensor.name} has no bytes {start}..{start + size}")
        part = self._parts[tensor.path]
        data = memoryview(bytearray(size))
        done = 0
        while done < size:
            got = _read_into(part.file, data[done:], tensor.offset + start + done, part.path)
            if not got:
                raise ModelError(
                    f"{_shown(part.path.name)}: tensor {_shown(tensor.name)} is cut off: "
                    "the file was changed after it was opened, start again"
                )
            done += got
        return data

    def int(self, key: builtins.str, default: builtins.int | None = None) -> builtins.int:
        """An integer of any width. Raises ModelError: another kind, or missing without default."""
        return int(self._typed(key, default, _INTEGERS, "an integer"))

    def float(self, key: builtins.str, default: builtins.float | None = None) -> builtins.float:
        """A float of any width. Raises ModelError: another kind, or missing without default."""
        return float(self._typed(key, default, _FLOATS, "a float"))

    def bool(self, key: builtins.str, default: builtins.bool | None = None) -> builtins.bool:
        """A truth value. Raises ModelError: another kind, or missing without default."""
        return bool(self._typed(key, default, (ValueKind.BOOL,), "a bool"))

    def str(self, key: builtins.str, default: builtins.str | None = None) -> builtins.str:
        """A string. Raises ModelError: another kind, or missing without default."""
        return str(self._typed(key, default, (ValueKind.STRING,), "a string"))

    def _typed(
        self,
        key: builtins.str,
        default: object,
        kinds: Sequence[ValueKind],
        wanted: builtins.str,
    ) -> Any:
        value = self.metadata.get(key)
        name = _shown(self.paths[0].name)
        if value is None and default is None:
            raise ModelError(f"{name}: the metadata has no {key}: convert the model again")
        if value is None:
            return default
        if value.kind not in kinds:
            raise ModelError(
                f"{name}: {key} must be {wanted} but is {value.kind.name}: convert the model again"
            )
        return value.value


def open_gguf(path: Path) -> GgufFile:
    """Open a model, all parts of it when `path` is one part of a split model.

    Raises ModelError, with one line, for everything that can be wrong with a file.
    """
    match = _PART_NAME.fullmatch(path.name)
    count = int(match["count"]) if match else 1
    if match and not 1 <= int(match["number"]) <= count:
        raise ModelError(f"{_shown(path.name)}: there is no such part of {count}: name part 1")
    parts: list[_Part] = []
    try:
        for number in range(1, count + 1):
            name = f"{match['stem']}-{number:05}-of-{count:05}.gguf" if match else path.name
            parts.append(_read_part(path.with_name(name) if match else path))
            _check_split(parts[-1], number, count)
        _check_whole(parts)
        return GgufFile(parts)
    except BaseException:
        for part in parts:
            part.file.close()
        raise


def _check_split(part: _Part, number: int, count: int) -> None:
    name = _shown(part.path.name)
    said = {}
    for key in ("split.count", "split.no"):
        value = part.metadata.get(key)
        if value is not None and value.kind not in _INTEGERS:
            raise ModelError(f"{name}: {key} must be an integer but is {value.kind.name}")
        said[key] = value.value if value is not None else None
    if count == 1 and (said["split.count"] or 1) > 1:
        raise ModelError(
            f"{name}: this is one part of {said['split.count']} but its name does not say which: "
            f"give the parts back their names, ...-00001-of-{said['split.count']:05}.gguf"
        )
    if count > 1 and (said["split.count"], said["split.no"]) != (count, number - 1):
        raise ModelError(
            f"{name}: named part {number} of {count}, but inside it has split.no "
            f"{said['split.no']} and split.count {said['split.count']}: give it back its name"
        )


def _check_whole(parts: Sequence[_Part]) -> None:
    seen: set[str] = set()
    for part in parts:
        for tensor in part.tensors:
            if tensor.name in seen:
                raise ModelError(
                    f"{_shown(part.path.name)}: tensor {_shown(tensor.name)} is there twice: "
                    "the file is damaged, download it again"
                )
            seen.add(tensor.name)
    total = parts[0].metadata.get("split.tensors.count")
    if len(parts) > 1 and total is not None and total.value != len(seen):
        raise ModelError(
            f"{_shown(parts[0].path.name)}: the parts hold {len(seen)} tensors but "
            f"split.tensors.count is {total.value}: download all parts again"
        )


def _read_part(path: Path) -> _Part:
    file = _opened(path)
    try:
        return _Header(path, file).part()
    except BaseException:
        file.close()
        raise


def _opened(path: Path) -> BinaryIO:
    name = _shown(str(path))
    try:
        mode = path.stat().st_mode  # first, because opening a pipe would wait for its writer
        if stat.S_ISDIR(mode):
            raise ModelError(f"{name} is a folder: name the .gguf file in it")
        if not stat.S_ISREG(mode):
            raise ModelError(f"{name} is a device or pipe: name a .gguf file")
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        whole = ", all parts of a model must be in one folder"
        raise ModelError(
            f"{name} does not exist: check the name"
            + (whole if _PART_NAME.fullmatch(path.name) else "")
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{name} cannot be read: {reason}") from None


class _Header:
    """Reads one file's header, and of the file no more than that, into `buffer`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.name = _shown(path.name)
        self.size = os.fstat(file.fileno()).st_size
        self.buffer = bytearray()
        self.position = 0

    def part(self) -> _Part:
        self._check_magic()
        version = self._version()
        n_tensors = self._count("tensors", 33)
        n_keys = self._count("metadata keys", 14)
        spans = self._metadata(n_keys)
        directory = [self._tensor(index) for index in range(n_tensors)]
        del self.buffer[self.position :]
        header = memoryview(self.buffer).toreadonly()
        metadata = {key: Value(kind, header[a:b]) for key, (kind, a, b) in spans.items()}
        alignment = self._alignment(metadata.get(_ALIGNMENT_KEY))
        tensors = self._placed(directory, alignment)
        return _Part(self.path, self.file, self.size, header, version, alignment, metadata, tensors)

    def fail(self, what: str, cure: str = "it is damaged, download it again") -> NoReturn:
        raise ModelError(f"{self.name}: {what}: {cure}")

    def take(self, n_bytes: int, what: str) -> int:
        """Where the next `n_bytes` lie in `buffer`; they are read if they are not there yet."""
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
            got = _read_into(self.file, chunk, len(self.buffer), self.path)
            if not got:
                self.fail(f"{what} is cut off", "the file is being changed, wait and try again")
            self.buffer += chunk[:got]
            chunk = chunk[got:]

    def _u32(self, what: str) -> int:
        return int(_U32.unpack_from(self.buffer, self.take(4, what))[0])

    def _u64(self, what: str) -> int:
        return int(_U64.unpack_from(self.buffer, self.take(8, what))[0])

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
                self.fail(f"metadata key {_shown(key)} is there twice")
            what = f"the value of {_shown(key)}"
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
        item_bytes = 8 if kind is ValueKind.STRING else struct.calcsize(_FORMATS[kind])
        if count * item_bytes > self.size - self.position:
            self.take(count * item_bytes, what)  # tells that the file is too short
        if kind is not ValueKind.STRING:
            self.take(count * item_bytes, what)
            return
        buffer, length_at = self.buffer, _U64.unpack_from
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
        """Name, shape, number of the type, and offset from the start of the data."""
        name = self._text(f"the name of tensor {index}", _MAX_NAME_BYTES)
        what = f"the entry of tensor {_shown(name)}"
        n_dims = self._u32(what)
        if not 1 <= n_dims <= _MAX_DIMENSIONS:
            self.fail(f"tensor {_shown(name)} has {n_dims} dimensions, not 1 to 4")
        start = self.take(8 * n_dims + 12, what)
        *shape, type_id, offset = struct.unpack_from(f"<{n_dims}QIQ", self.buffer, start)
        return name, tuple(shape), type_id, offset

    def _alignment(self, value: Value | None) -> int:
        if value is None:
            return DEFAULT_ALIGNMENT
        if value.kind is not ValueKind.UINT32:
            self.fail(f"{_ALIGNMENT_KEY} must be UINT32 but is {value.kind.name}")
        alignment = int(value.value)
        if not _is_alignment(alignment):
            self.fail(f"{_ALIGNMENT_KEY} is {alignment}, not a power of two up to {_MAX_ALIGNMENT}")
        return alignment

    def _placed(
        self, directory: Sequence[tuple[str, tuple[int, ...], int, int]], alignment: int
    ) -> list[Tensor]:
        data_start = _aligned(self.position, alignment)
        tensors = []
        for name, shape, type_id, offset in directory:
            try:
                type_ = ggml_type(type_id)
            except ModelError as error:
                raise ModelError(f"{self.name}: tensor {_shown(name)}: {error}") from None
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
                self.fail(f"tensors {_shown(before.name)} and {_shown(after.name)} overlap")
        return tensors

    def _check_place(self, tensor: Tensor, alignment: int) -> None:
        name, end = _shown(tensor.name), tensor.offset + tensor.size_bytes
        if tensor.offset % alignment:
            self.fail(f"tensor {name} starts at {tensor.offset}, not a multiple of {alignment}")
        if end > self.size:
            self.fail(
                f"tensor {name} needs bytes {tensor.offset}..{end} "
                f"but the file ends at {self.size}",
                "it is truncated, download it again",
            )


def _what_else(first: bytes) -> tuple[str, str]:
    """What a file with these first bytes is instead, and the cure."""
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
    return f"this is no GGUF, it begins with {first[:4]!r}", "name a .gguf file"


def _read_into(file: BinaryIO, target: memoryview, offset: int, path: Path) -> int:
    try:
        return os.preadv(file.fileno(), [target], offset)
    except OSError as error:
        raise ModelError(f"{_shown(str(path))} cannot be read: {error.strerror}") from None


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _is_alignment(number: int) -> bool:
    return 1 <= number <= _MAX_ALIGNMENT and number & (number - 1) == 0


def _shown(name: str) -> str:
    """A name from a file, fit for one line of a message."""
    short = name if len(name) <= 200 else name[:200] + "..."
    return short if short.isprintable() else ascii(short)[1:-1]


class GgufWriter:
    """Writes a model of the given tensors in one pass, to `path` only when it is complete.

    with GgufWriter(path, metadata, specs) as writer:
        for spec in specs:
            writer.write(data of spec)  # uint8, in as many chunks as you like

    The bytes go to `<path>.part`, which is renamed at the end and deleted on an exception.
    A `Value` in `metadata` is copied as it is, anything else gets the kind llama.cpp expects;
    `general.alignment` is set from `alignment`. `sha256` and `size_bytes` are the file's.
    Raises ModelError for tensors llama.cpp cannot hold and for a full disk, and ValueError
    when the chunks do not add up to the tensors.
    """

    def __init__(
        self,
        path: Path,
        metadata: Mapping[str, Value | bool | int | float | str],
        tensors: Sequence[TensorSpec],
        alignment: int = DEFAULT_ALIGNMENT,
    ) -> None:
        if not _is_alignment(alignment):
            raise ValueError(f"alignment {alignment} is not a power of two to {_MAX_ALIGNMENT}")
        self.path = path
        self._part_path = path.with_name(path.name + ".part")
        self._tensors = tuple(tensors)
        self._alignment = alignment
        self._header = self._encode_header(metadata)
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._current = 0  # the tensor that is being written, and its bytes so far
        self._done = 0
        padded = (_aligned(tensor.size_bytes, alignment) for tensor in self._tensors)
        self.size_bytes = len(self._header) + sum(padded)

    @property
    def sha256(self) -> str:
        """In hex, of everything written so far; after the end, of the file."""
        return self._digest.hexdigest()

    def __enter__(self) -> Self:
        try:
            with self._telling():
                if shutil.disk_usage(self.path.parent).free < self.size_bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._file = self._part_path.open("wb", buffering=0)
            self._put(self._header)
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
        with self._telling():
            os.fsync(self._opened().fileno())
            self._part_path.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _drop(self) -> None:
        """Close the file; unless it was renamed, it is deleted."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._part_path.unlink(missing_ok=True)

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise ValueError("write inside `with GgufWriter(...)`")
        return self._file

    def _put(self, data: bytes | memoryview) -> None:
        file, view = self._opened(), memoryview(data)
        self._digest.update(view)
        with self._telling():
            while view:
                view = view[file.write(view) :]

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn a failed system call into the ModelError that tells about it."""
        try:
            yield
        except OSError as error:
            folder = self.path.parent
            if error.errno not in _NO_SPACE:
                raise ModelError(
                    f"{_shown(str(self.path))} cannot be written: {error.strerror}"
                ) from error
            raise ModelError(
                f"disk full ({error.strerror}): {self.size_bytes} bytes needed in "
                f"{_shown(str(folder))}, {shutil.disk_usage(folder).free} free: make room there"
            ) from error

    def _encode_header(self, metadata: Mapping[str, object]) -> bytes:
        values = {key: _guessed(value) for key, value in metadata.items()}
        values.pop(_ALIGNMENT_KEY, None)
        if self._alignment != DEFAULT_ALIGNMENT:
            values[_ALIGNMENT_KEY] = value_of(ValueKind.UINT32, self._alignment)
        if len({tensor.name for tensor in self._tensors}) < len(self._tensors):
            raise ValueError("two tensors have the same name")
        pieces = [struct.pack("<4sIQQ", b"GGUF", 3, len(self._tensors), len(values))]
        for key, value in values.items():
            pieces += [_encoded(ValueKind.STRING, key), _U32.pack(value.kind), bytes(value.raw)]
        offset = 0
        for tensor in self._tensors:
            tensor.check()
            n_dims = len(tensor.shape)
            pieces.append(_encoded(ValueKind.STRING, tensor.name) + _U32.pack(n_dims))
            pieces.append(struct.pack(f"<{n_dims}QIQ", *tensor.shape, tensor.type.id, offset))
            offset += _aligned(tensor.size_bytes, self._alignment)
        header = b"".join(pieces)
        return header.ljust(_aligned(len(header), self._alignment), b"\0")
