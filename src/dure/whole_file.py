"""Files that are written whole or not at all: a reader sees the old content or the new one.

Refuses to know formats. Large files that are written piece by piece, and may be resumed, are replaced
by their writers (`model.store.download`, `model.gguf.writer`, `cluster.node.shards`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["part_of", "write_together", "write_whole"]

PRIVATE = 0o600


def part_of(path: Path) -> Path:
    """Return the name of a file while it is being written, beside its own."""
    return path.with_name(f"{path.name}.part")


def write_whole(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file in one step, and its directory if that is missing.

    private: nobody else can read it, not even for a moment. Raises OSError if it cannot be written; the
    file is as it was then, and nothing is left beside it.
    """
    write_together({path: data}, private=private)


def write_together(contents: Mapping[Path, bytes], *, private: bool = False) -> None:
    """Write files as `write_whole` does, and replace none of them before all are written."""
    try:
        for path, data in contents.items():
            _write_part(path, data, private=private)
        for path in contents:
            part_of(path).replace(path)
    except BaseException:
        for path in contents:
            part_of(path).unlink(missing_ok=True)
        raise


def _write_part(path: Path, data: bytes, *, private: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if private else 0o777)
    part, mode = part_of(path), PRIVATE if private else 0o666
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
