"""What can be imported: each kind of source, how it is recognized, and how it is opened.

Refuses to know what is in a source, and where a model goes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from dure.convert import huggingface
from dure.convert.model import ConvertedModel
from dure.errors import UsageError
from dure.model.ggml import GgmlType
from dure.model.gguf.values import one_line

__all__ = ["SOURCES", "ImportSource", "source_of"]


@dataclass(frozen=True)
class ImportSource:
    """A kind of source.

    kind: as people call it, with an article. is_meant: whether a path is one. opened: yields the model to
    be written, with its matrices in a type, or in the source's own for None. name: what to call the model.
    """

    kind: str
    is_meant: Callable[[Path], bool]
    opened: Callable[[Path, GgmlType | None], AbstractContextManager[ConvertedModel]]
    name: Callable[[Path], str]


SOURCES = (
    ImportSource(
        "a Hugging Face folder (with config.json)",
        huggingface.is_folder,
        huggingface.convert_folder,
        huggingface.name_of,
    ),
)


def source_of(path: Path) -> ImportSource:
    """Return the kind of source that a path is. Raises UsageError if it is none."""
    if not path.exists():
        raise UsageError(f"{one_line(str(path))} does not exist", "check the name")
    for source in SOURCES:
        if source.is_meant(path):
            return source
    kinds = " or ".join(source.kind for source in SOURCES)
    raise UsageError(f"{one_line(str(path))} is nothing that dure imports", f"name {kinds}")
