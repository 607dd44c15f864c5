"""Files with a checksum at their end, which shows whether they are what was written.

Knows bytes, and refuses to know what they mean. llama.cpp reads a cached sequence as it finds it: a byte
that a disk lost would become a wrong answer that nobody notices.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

__all__ = ["is_whole", "seal"]

_SEAL = struct.Struct("<4sI")  # a mark, and CRC-32 of all before it
_MARK = b"DURE"
_CHUNK_BYTES = 1 << 20


def seal(path: Path) -> None:
    """Append the checksum. Raises OSError."""
    with path.open("rb+") as file:
        checksum = _checksum(file, path.stat().st_size)
        file.write(_SEAL.pack(_MARK, checksum))


def is_whole(path: Path) -> bool:
    """Check that a file is there, sealed, and as it was then."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size - _SEAL.size
            checksum = _checksum(file, size)
            return size >= 0 and file.read() == _SEAL.pack(_MARK, checksum)
    except OSError:
        return False


def _checksum(file: BinaryIO, n_bytes: int) -> int:
    """Read the first n_bytes and return their CRC-32."""
    checksum = 0
    while n_bytes > 0 and (data := file.read(min(n_bytes, _CHUNK_BYTES))):
        checksum = zlib.crc32(data, checksum)
        n_bytes -= len(data)
    return checksum
