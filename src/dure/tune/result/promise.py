"""What a run will lead to, before it begins: the header of its file.

Refuses to know what is made of the file, and where it is served.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from dure.model.gguf import GgufFile, open_gguf, write_header
from dure.places import temporary_directory
from dure.tune.result.writing import ResultForm, opened_base

__all__ = ["promised_result"]


@contextmanager
def promised_result(base: Path, name: str) -> Iterator[GgufFile]:
    """Open the file in F16 that tuning a base will lead to, without its content. name: of the file.

    Raises what writing it would, as far as the base alone says so.
    """
    with (
        TemporaryDirectory(prefix="dure-", dir=temporary_directory()) as folder,
        opened_base(base, ResultForm()) as model,
    ):
        path = Path(folder) / name
        write_header(path, model.metadata, [tensor.spec for tensor in model.tensors])
        with open_gguf(path) as header:
            yield header
