"""GGUF files: checked before they are believed, and written in one pass.

Knows the container: header, metadata, tensor directory, split files. It knows nothing about
architectures, and it never decodes a tensor. Every count and length in a file is compared
with the bytes that are left before anything is allocated or looped over.
Source of the format: llama.cpp `gguf.h`.
"""

from __future__ import annotations

from dure.model.gguf.reader import GgufFile, OpenTensor, open_gguf
from dure.model.gguf.remembered import once_per_model
from dure.model.gguf.values import (
    Tensor,
    TensorSpec,
    Value,
    ValueKind,
    array_of,
    bytes_by_type,
    value_of,
)
from dure.model.gguf.writer import GgufWriter, Sink, write_header

__all__ = [
    "GgufFile",
    "GgufWriter",
    "OpenTensor",
    "Sink",
    "Tensor",
    "TensorSpec",
    "Value",
    "ValueKind",
    "array_of",
    "bytes_by_type",
    "once_per_model",
    "open_gguf",
    "value_of",
    "write_header",
]
