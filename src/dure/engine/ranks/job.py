"""What a rank is told when it starts.

Imports little: what starts ranks on other machines imports it for every start.
"""

from __future__ import annotations

import msgspec

from dure.engine.limits import Limits, OffloadedLayers
from dure.engine.wire import Wire

__all__ = ["RUNNING", "Job"]

RUNNING = ".running"  # files of this ending are there while a launcher of ranks elsewhere runs


class Job(msgspec.Struct):
    """All that a rank must know to start, written to a file that every rank reads.

    socket: where the client listens, for rank 0. model: the whole model, for rank 0's embedding rows.
    vocabulary: each rank's rows, half-open. max_values: of a vector that is reduced.
    limits: as planned; `threads` and `gpus` have every rank's own. gpus: empty if no rank has any.
    saved_directory: where this rank's machine keeps saved sequences; "": where the client says.
    """

    socket: str
    model: str
    shards: list[str]
    vocabulary: list[tuple[int, int]]
    embedding_scale: float
    reduction_points: tuple[str, ...]
    reductions_per_pass: int
    wire: Wire
    limits: Limits
    threads: list[int]
    max_values: int
    two_phase_above: float | None
    wait_s: float
    staged: bool = False
    saved_directory: str = ""
    gpus: list[OffloadedLayers] = []
