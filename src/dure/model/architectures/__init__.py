"""The architectures that dure can cut: one file each, with a table and what is special about it.

To add one: a file here with an `ARCHITECTURE`, and a shape in the parity tests.
"""

from __future__ import annotations

from dure.model.architectures.base import Along, Architecture, Rule, Shape
from dure.model.architectures.lookup import ARCHITECTURES, architecture_of, shape_of

__all__ = [
    "ARCHITECTURES",
    "Along",
    "Architecture",
    "Rule",
    "Shape",
    "architecture_of",
    "shape_of",
]
