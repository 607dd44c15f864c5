"""The types of arrays that steps are made of, below everything else in `engine`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Ints", "Times"]

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]
"""Seconds of a machine's monotonic clock."""
