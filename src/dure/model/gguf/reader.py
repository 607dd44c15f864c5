"""A model on disk, in one file or several: metadata, tensor directory, and ranges of weights.

It never decodes a tensor, and knows nothing about architectures.
"""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from dure.errors import ModelError
from dure.model.gguf.header import PART_NAME, ByteSource, LocalFile, Part, read_part
from dure.model.gguf.values import FLOATS, INTEGERS, U64, Tensor, Value, ValueKind, one_line

_SAMPLE_BYTES = 4096


class GgufFile:
    """A model's metadata and tensor directory; the weights stay on disk until `read`.

    A split model is one object: `paths` has all its parts, `metadata` is the first part's.
    Use it as a context manager or call `close`; metadata may be used afterwards.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
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
        """Return `general.architecture`. Raises ModelError if the file does not have it."""
        return self.str("general.architecture")

    @cached_property
    def fingerprint(self) -> builtins.str:
        """Compute the SHA-256 in hex of the headers, the sizes and both ends of every tensor.

        It distinguishes models by content, is the same on every machine, and reads little.
        Raises ModelError when a file was truncated meanwhile.
        """
        digest = hashlib.sha256()
        for part in self._parts.values():
            digest.update(U64.pack(len(part.header)) + U64.pack(part.size_bytes))
            digest.update(part.header)
            for tensor in part.tensors:
                size = min(_SAMPLE_BYTES, tensor.size_bytes)
                digest.update(self.read(tensor, 0, size))
                digest.update(self.read(tensor, tensor.size_bytes - size, size))
        return digest.hexdigest()

    def read(self, tensor: Tensor, start: builtins.int, size: builtins.int) -> memoryview:
        """Read `size` bytes of a tensor's data from its byte `start`; any thread may call it.

        Raises ModelError when the file can no longer be read that far, and ValueError for a
        range outside the tensor.
        """
        _check_range(tensor, start, size)
        data = memoryview(bytearray(size))
        self.read_into(tensor, start, data)
        return data

    def read_into(self, tensor: Tensor, start: builtins.int, data: memoryview) -> None:
        """Read as many bytes as `data` has."""
        _read(self._parts[tensor.path].file, tensor, start, data)

    def int(self, key: builtins.str, default: builtins.int | None = None) -> builtins.int:
        """Return an integer of any width. Raises ModelError: another kind, or missing without default."""
        return int(self._typed(key, default, INTEGERS, "an integer"))

    def float(self, key: builtins.str, default: builtins.float | None = None) -> builtins.float:
        """Return a float of any width. Raises ModelError: another kind, or missing without default."""
        return float(self._typed(key, default, FLOATS, "a float"))

    def bool(self, key: builtins.str, default: builtins.bool | None = None) -> builtins.bool:
        """Return a truth value. Raises ModelError: another kind, or missing without default."""
        return bool(self._typed(key, default, (ValueKind.BOOL,), "a bool"))

    def str(self, key: builtins.str, default: builtins.str | None = None) -> builtins.str:
        """Return a string. Raises ModelError: another kind, or missing without default."""
        return str(self._typed(key, default, (ValueKind.STRING,), "a string"))

    def _typed(
        self,
        key: builtins.str,
        default: object,
        kinds: Sequence[ValueKind],
        wanted: builtins.str,
    ) -> Any:
        value = self.metadata.get(key)
        name = one_line(self.paths[0].name)
        if value is None and default is None:
            raise ModelError(f"{name}: the metadata has no {key}", "convert the model again")
        if value is None:
            return default
        if value.kind not in kinds:
            raise ModelError(
                f"{name}: {key} must be {wanted} but is {value.kind.name}",
                "convert the model again",
            )
        return value.value


class OpenTensor:
    """One tensor of a file on this machine, which is read without the rest of its model."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._file = tensor, LocalFile(tensor.path)

    def read_into(self, start: builtins.int, data: memoryview) -> None:
        """Read from byte `start` as `GgufFile.read_into` does."""
        _read(self._file, self._tensor, start, data)

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        self._file.close()


def open_gguf(path: Path, opened: Callable[[Path], ByteSource] = LocalFile) -> GgufFile:
    """Open a model, all parts of it when `path` is one part of a split model.

    opened: opens one file, which need not be on this machine.
    Raises ModelError, with one line, for everything that can be wrong with a file, and what `opened`
    raises.
    """
    match = PART_NAME.fullmatch(path.name)
    count = int(match["count"]) if match else 1
    if match and not 1 <= int(match["number"]) <= count:
        raise ModelError(f"{one_line(path.name)}: there is no such part of {count}", "name part 1")
    parts: list[Part] = []
    try:
        for number in range(1, count + 1):
            name = f"{match['stem']}-{number:05}-of-{count:05}.gguf" if match else path.name
            parts.append(read_part(path.with_name(name) if match else path, opened))
            _check_split(parts[-1], number, count)
        _check_whole(parts)
        return GgufFile(parts)
    except BaseException:
        for part in parts:
            part.file.close()
        raise


def _check_split(part: Part, number: int, count: int) -> None:
    name = one_line(part.path.name)
    said = {}
    for key in ("split.count", "split.no"):
        value = part.metadata.get(key)
        if value is not None and value.kind not in INTEGERS:
            raise ModelError(f"{name}: {key} must be an integer but is {value.kind.name}")
        said[key] = value.value if value is not None else None
    if count == 1 and (said["split.count"] or 1) > 1:
        raise ModelError(
            f"{name}: this is one part of {said['split.count']} but its name does not say which",
            f"give the parts back their names, ...-00001-of-{said['split.count']:05}.gguf",
        )
    if count > 1 and (said["split.count"], said["split.no"]) != (count, number - 1):
        raise ModelError(
            f"{name}: named part {number} of {count}, but inside it has split.no "
            f"{said['split.no']} and split.count {said['split.count']}",
            "give it back its name",
        )


def _check_whole(parts: Sequence[Part]) -> None:
    seen: set[str] = set()
    for part in parts:
        for tensor in part.tensors:
            if tensor.name in seen:
                raise ModelError(
                    f"{one_line(part.path.name)}: tensor {one_line(tensor.name)} is there twice",
                    "the file is damaged, download it again",
                )
            seen.add(tensor.name)
    total = parts[0].metadata.get("split.tensors.count")
    if len(parts) > 1 and total is not None and total.value != len(seen):
        raise ModelError(
            f"{one_line(parts[0].path.name)}: the parts hold {len(seen)} tensors but "
            f"split.tensors.count is {total.value}",
            "download all parts again",
        )


def _read(file: ByteSource, tensor: Tensor, start: int, data: memoryview) -> None:
    size, done = len(data), 0
    _check_range(tensor, start, size)
    while done < size:
        got = file.read_into(data[done:], tensor.offset + start + done)
        if not got:
            raise ModelError(
                f"{one_line(tensor.path.name)}: tensor {one_line(tensor.name)} is cut off",
                "the file was changed after it was opened, start again",
            )
        done += got


def _check_range(tensor: Tensor, start: int, size: int) -> None:
    if start < 0 or size < 0 or start + size > tensor.size_bytes:
        raise ValueError(f"{tensor.name} has no bytes {start}..{start + size}")
