"""How partial vectors travel between ranks."""

from __future__ import annotations

from enum import Enum

__all__ = ["Wire"]


class Wire(Enum):
    """How partial vectors travel: 8-bit blocks of 32 (34 bytes), or float32."""

    Q8 = "q8"
    F32 = "f32"

    @property
    def value_bytes(self) -> float:
        """Return the bytes of one value on the wire."""
        return 4.0 if self is Wire.F32 else 34 / 32
