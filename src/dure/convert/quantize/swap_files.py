"""A model as files of one group of tensors each: to swap a group, its file alone is written.

Together they are a split model, which llama.cpp loads as one. So a swap costs the group's tensors in their
small type, whatever type the model has. Refuses to know which groups and types are good.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dure.convert.model import ConvertedModel, Metadata, TensorSource, write_model
from dure.convert.quantize.encoding import Encoder
from dure.model.ggml import GgmlType
from dure.model.gguf import GgufFile, Tensor, TensorSpec, ValueKind, value_of

__all__ = ["SwapFiles", "left_folders", "scratch_folder"]

_OWN_TYPES: Mapping[str, GgmlType] = {}


class SwapFiles:
    """A model's files, in a folder with room for it. groups: tensors by group; the rest is one more."""

    def __init__(
        self,
        model: GgufFile,
        encoder: Encoder,
        groups: Mapping[str, Sequence[str]],
        directory: Path,
    ) -> None:
        self._model, self._encoder, self._directory = model, encoder, directory
        grouped = {name for names in groups.values() for name in names}
        rest = [name for name in model.tensors if name not in grouped]
        self._parts: Sequence[Sequence[str]] = [rest, *groups.values()]
        self._numbers = {group: number for number, group in enumerate(groups, 1)}
        self._is_written = False

    @contextmanager
    def swapped(self, group: str, types: Mapping[str, GgmlType]) -> Iterator[Path]:
        """Give a group's tensors these types while a block runs. Yields the first file of the model.

        Raises ResourceError if the disk is full; the model is as before then.
        """
        self._write_all()
        number = self._numbers[group]
        path = self._path(number)
        own = path.with_suffix(".own")
        path.replace(own)
        try:
            self._write(number, types)
            yield self._path(0)
        finally:
            own.replace(path)

    def _write_all(self) -> None:
        if not self._is_written:
            for number in range(len(self._parts)):
                self._write(number, _OWN_TYPES)
        self._is_written = True

    def _write(self, number: int, types: Mapping[str, GgmlType]) -> None:
        tensors = [self._model.tensors[name] for name in self._parts[number]]
        sources = [self._source(tensor, types.get(tensor.name, tensor.type)) for tensor in tensors]
        write_model(ConvertedModel(self._metadata(number), sources), self._path(number))

    def _source(self, tensor: Tensor, type_: GgmlType) -> TensorSource:
        spec = TensorSpec(tensor.name, tensor.shape, type_)
        return TensorSource(spec, lambda: self._encoder.chunks(tensor, type_))

    def _metadata(self, number: int) -> Metadata:
        """Return what stands in a file; in the first one, the model's own too. Source: llama-gguf-split."""
        own = {k: v for k, v in self._model.metadata.items() if not k.startswith("split.")}
        return {
            **({} if number else own),
            "split.no": value_of(ValueKind.UINT16, number),
            "split.count": value_of(ValueKind.UINT16, len(self._parts)),
            "split.tensors.count": value_of(ValueKind.INT32, len(self._model.tensors)),
        }

    def _path(self, number: int) -> Path:
        return self._directory / f"swaps-{number + 1:05}-of-{len(self._parts):05}.gguf"


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder until a block ends, and delete those of this prefix that killed processes left."""
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / f".{prefix}lock").open("w") as entry:
        fcntl.flock(entry, fcntl.LOCK_EX)  # until the new folder is locked
        for old in left_folders(parent, prefix):
            shutil.rmtree(old, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def left_folders(parent: Path, prefix: str) -> list[Path]:
    """Return the folders of this prefix that killed processes left."""
    return [folder for folder in parent.glob(f"{prefix}*") if not _is_held(folder)]


def _is_held(folder: Path) -> bool:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # its process runs
        return True
    finally:
        os.close(lock)
    return False
