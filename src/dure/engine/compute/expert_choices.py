"""Which experts the first token of a step has in each layer, noted while it computes.

Knows what `expert_choices.c` of `native/` exports. Refuses to know ranks and traces.
"""

from __future__ import annotations

import ctypes

import numpy as np

from dure.engine.compute.native import library
from dure.engine.trace import ExpertNotes
from dure.errors import EngineError

__all__ = ["ExpertChoices"]

_MOST_CHOSEN = 64  # as in expert_choices.c


class ExpertChoices:
    """Notes choices. There may be several; only one of a process notes at a time."""

    def __init__(self) -> None:
        self._n_layers = 0

    def note(self, n_layers: int) -> None:
        """Note the choices in the first n_layers of every step; 0 stops it. Raises EngineError."""
        if library().dure_experts_trace(ctypes.c_int64(n_layers)):
            raise EngineError(f"there is no memory for the experts of {n_layers} layers")
        self._n_layers = n_layers

    def noted(self) -> ExpertNotes:
        """Return what was noted since the last call."""
        if not self._n_layers:
            return ExpertNotes()
        ids = np.empty((self._n_layers, _MOST_CHOSEN), np.int32)
        n_experts = library().dure_experts_chosen(ctypes.c_void_p(ids.ctypes.data))
        if not n_experts:
            return ExpertNotes()
        return ExpertNotes(
            int(n_experts), tuple(tuple(sorted(row[row >= 0].tolist())) for row in ids)
        )
