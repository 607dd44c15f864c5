"""Writes a model with other types: what stands in its metadata, and a look at what was written.

Knows metadata and tensors. Refuses to choose types.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dure.convert.importance import Importance, read_importance
from dure.convert.model import ConvertedModel, TensorSource, write_model
from dure.convert.quantize.encoding import Encoder
from dure.convert.quantize.kept_tensors import KeptTensors
from dure.convert.quantize.llama_types import file_types
from dure.errors import ModelError
from dure.model.ggml import GgmlType
from dure.model.gguf import (
    GgufFile,
    GgufWriter,
    Tensor,
    TensorSpec,
    Value,
    ValueKind,
    open_gguf,
    value_of,
)

__all__ = ["ImportanceFile", "Quantized", "file_type_of", "types_of", "write_quantized"]

_NOT_COPIED = (
    "split.",
    "dure.quantize.",
)  # of files that are one no more, and of an earlier choice
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
Metadata = Mapping[str, Value | bool | int | float | str]


@dataclass(frozen=True)
class ImportanceFile:
    """An importance matrix and where it came from. sha256: of the file."""

    path: Path
    importance: Importance
    sha256: str

    @classmethod
    def read(cls, path: Path) -> ImportanceFile:
        """Read an importance matrix. Raises ModelError."""
        importance = read_importance(path)
        with path.open("rb") as file:
            return cls(path, importance, hashlib.file_digest(file, "sha256").hexdigest())

    @property
    def metadata(self) -> Metadata:
        """Return what llama.cpp's quantizer writes about it."""
        return {
            "quantize.imatrix.file": self.path.name,
            "quantize.imatrix.dataset": ", ".join(self.importance.datasets),
            "quantize.imatrix.entries_count": value_of(
                ValueKind.UINT32, len(self.importance.squares)
            ),
            "quantize.imatrix.chunks_count": value_of(ValueKind.UINT32, self.importance.n_chunks),
        }


@dataclass(frozen=True)
class Quantized:
    """A model and the types of the tensors that change. metadata: what else the file says."""

    model: GgufFile
    types: Mapping[str, GgmlType]
    importance: ImportanceFile | None
    file_type: int
    metadata: Metadata

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all tensors."""
        return sum(self._spec(tensor).size_bytes for tensor in self.model.tensors.values())

    @property
    def file_bytes(self) -> int:
        """Return the size of the file."""
        specs = [self._spec(tensor) for tensor in self.model.tensors.values()]
        return GgufWriter(self.model.paths[0], self._all_metadata(), specs).size_bytes

    def converted(self, kept: KeptTensors | None, threads: int) -> ConvertedModel:
        """Return the model as it is written. kept: where encoded tensors are kept."""
        importances = self.importance.importance if self.importance else None
        encoder = Encoder(self.model, importances, threads)
        return ConvertedModel(
            self._all_metadata(),
            [self._source(tensor, encoder, kept) for tensor in self.model.tensors.values()],
        )

    def _spec(self, tensor: Tensor) -> TensorSpec:
        return TensorSpec(tensor.name, tensor.shape, self.types.get(tensor.name, tensor.type))

    def _source(self, tensor: Tensor, encoder: Encoder, kept: KeptTensors | None) -> TensorSource:
        spec = self._spec(tensor)

        def encoded() -> Iterator[npt.NDArray[np.uint8]]:
            return encoder.chunks(tensor, spec.type)

        if kept is None or spec.type == tensor.type:
            return TensorSource(spec, encoded)
        key = self._key(spec)
        return TensorSource(spec, lambda: kept.chunks(key, spec.size_bytes, encoded))

    def _key(self, spec: TensorSpec) -> str:
        """Return all that a tensor's bytes depend on."""
        of = self.importance.sha256 if self.importance else "-"
        software = version("llama-cpp-python")
        return f"{self.model.fingerprint} {of} {software} {spec.type.name} {spec.name}"

    def _all_metadata(self) -> Metadata:
        own = {k: v for k, v in self.model.metadata.items() if not k.startswith(_NOT_COPIED)}
        return {
            **own,
            "general.quantization_version": value_of(ValueKind.UINT32, _QUANTIZATION_VERSION),
            "general.file_type": value_of(ValueKind.UINT32, self.file_type),
            **(self.importance.metadata if self.importance else {}),
            **self.metadata,
        }


def file_type_of(model: GgufFile, types: Mapping[str, GgmlType]) -> int:
    """Return the `general.file_type` of a choice: that of the type that most weights have."""
    weights: Counter[str] = Counter()
    for tensor in model.tensors.values():
        weights[types.get(tensor.name, tensor.type).name] += tensor.n_elements
    known = file_types()
    for name, _ in weights.most_common():
        for mixture in (name, f"{name}_S", f"{name}_M"):
            if mixture in known:
                return known[mixture]
    return known["F32"]


def write_quantized(
    wanted: Quantized,
    path: Path,
    kept: KeptTensors | None,
    threads: int,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, str]:
    """Write the model, whole or not at all; return the type of each tensor as it stands in the file.

    Raises ResourceError if the disk is full, ModelError for a type that a tensor cannot have.
    """
    write_model(wanted.converted(kept, threads), path, progress)
    found = types_of(path)
    for tensor in wanted.model.tensors.values():
        expected = wanted.types.get(tensor.name, tensor.type).name
        if found.get(tensor.name) != expected:
            raise ModelError(
                f"{path.name}: {tensor.name} should be {expected}, and is {found.get(tensor.name)}"
            )
    return found


def types_of(path: Path) -> dict[str, str]:
    """Return the type of each tensor of a file."""
    with open_gguf(path) as model:
        return {tensor.name: tensor.type.name for tensor in model.tensors.values()}
