"""Reads what the doctor judges of a model's file: its tables of tokens, and its checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dure.errors import ModelError
from dure.model.gguf import open_gguf
from dure.model.store import Library

__all__ = ["ModelFile", "read_model_file"]

_BLOCK_BYTES = 8 << 20
_EMBEDDING = "token_embd.weight"
_TOKENS = "tokenizer.ggml.tokens"


@dataclass(frozen=True)
class ModelFile:
    """A model's file. n_tokens: of its tokenizer; n_rows: of its table of embeddings; None without.

    checksums: the SHA-256 that each file should have, None if nobody knows, and that it has, by name.
    """

    name: str
    n_tokens: int | None = None
    n_rows: int | None = None
    checksums: Mapping[str, tuple[str | None, str]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)


def read_model_file(path: Path, progress: Callable[[int], None] = lambda _: None) -> ModelFile:
    """Read a model: the first file of a split one. progress: gets the bytes read for the checksum.

    A file that is no model has no tokens that can be read. Raises OSError if it cannot be read at all.
    """
    n_tokens = n_rows = None
    unreadable = dict[str, str]()
    paths: tuple[Path, ...] = (path,)
    try:
        with open_gguf(path) as model:
            paths, tokens = model.paths, model.metadata.get(_TOKENS)
            n_tokens = None if tokens is None else tokens.count
            table = model.tensors.get(_EMBEDDING)
            n_rows = None if table is None else table.shape[1]
    except ModelError as error:
        unreadable["n_tokens"] = str(error)
    checksums = {one.name: (_expected(path, one), _sha256(one, progress)) for one in paths}
    return ModelFile(path.name, n_tokens, n_rows, checksums, unreadable)


def _expected(first: Path, path: Path) -> str | None:
    """Return the SHA-256 that a model's file had when it was pulled; None if it has no record of one."""
    record = Library().read(first)
    files = record.files if record else ()
    return next((one.sha256 for one in files if Path(one.path).name == path.name), None)


def _sha256(path: Path, progress: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()
