"""The types of arrays that steps are made of, below everything else in `engine`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "InputSums", "Ints", "Times"]

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]
"""Seconds of a machine's monotonic clock."""

InputSums = Mapping[str, tuple[Floats, Floats]]
"""What weights were multiplied with, by their names: the sums of the squares, float32 [matrices, width],
and how many vectors each is of, float32 [matrices]. A stack of experts has a row for each, any other one.
"""
