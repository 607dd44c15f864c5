"""Defines how a model runs: one set of options for every command and for the engine's process.

Checks options on their own. Refuses to know models and machines.
"""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from dure.cluster.job_identity import JobIdentity
from dure.engine.adapters import AdapterSet, adapter_set, is_scale
from dure.engine.wire import Wire
from dure.errors import UsageError

__all__ = [
    "MOST_SEQUENCES",
    "AdapterFile",
    "RestartReason",
    "RunOptions",
    "adapter_file",
    "check_sequences",
    "gpu_layers",
    "node_names",
    "parse_shares",
]

MOST_RANKS = 1024
MOST_SEQUENCES = 128  # llama.cpp's own limit is 256
LARGEST_SHARE = 1e9


class AdapterFile(msgspec.Struct, frozen=True):
    """An adapter (LoRA) in GGUF, and the scale that requests which do not say one use it with."""

    path: str
    scale: float = 1.0


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The user's options; None: chosen automatically.

    ctx: tokens of the longest prompt with its answer. n_sequences: answers at once, each with its own
    context. cluster: one rank on each machine of the cluster; else all on this machine. job: which command
    this is, for the cluster. share_node: it may use machines that other jobs use. nodes: exactly these,
    or "all"; None: those that make it faster. interface: network device towards the nodes; None: the
    one that leads there. grace_s: seconds to wait for a missing node before starting without it; 0 fails
    at once. wire: format of partial sums. lock_memory: weights are never swapped out. pin: each thread has
    its own core. lora: adapters that are loaded with the model; the first is number 0. gathers_inputs: what
    weights are multiplied with will be added up (`InputGathering`), which takes memory.
    gpu_layers: how many of each rank lie on its GPU; None: as many as fit.
    """

    ranks: int | None = None
    shares: str | None = None
    threads: int | None = None
    ctx: int | None = None
    n_sequences: int = 1
    wire: Wire = Wire.Q8
    cluster: bool = False
    job: JobIdentity | None = None
    share_node: bool = False
    nodes: str | None = None
    interface: str | None = None
    grace_s: float = 0.0
    lock_memory: bool = False
    pin: bool = False
    lora: tuple[AdapterFile, ...] = ()
    gathers_inputs: bool = False
    gpu_layers: int | None = None

    @property
    def adapters(self) -> AdapterSet:
        """What is computed with the adapters as they were given."""
        return adapter_set((number, file.scale) for number, file in enumerate(self.lora))


class RestartReason(msgspec.Struct, frozen=True):
    """Why the previous engine ended, silent_s after its answers' last event."""

    reason: str
    silent_s: float = 0.0


def adapter_file(text: str) -> AdapterFile:
    """Return the adapter that FILE or FILE:SCALE names. Raises UsageError if the scale is no number."""
    name, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return AdapterFile(str(Path(text).absolute()))
    try:
        scale = float(number)
    except ValueError:
        scale = math.nan
    if not is_scale(scale) or not name:
        raise UsageError(
            f"--lora {text}", "give a file, or a file and a scale, as in style.gguf:0.5"
        )
    return AdapterFile(str(Path(name).absolute()), scale)


def gpu_layers(text: str) -> int | None:
    """Return the layers that --gpu-layers asks for; None for auto. Raises UsageError."""
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(f"--gpu-layers {text}", "give a number of layers, or auto")
    return int(text)


def check_sequences(n: int) -> None:
    """Check the number of answers at once. Raises UsageError if llama.cpp cannot have so many."""
    if not 1 <= n <= MOST_SEQUENCES:
        raise UsageError(f"--parallel {n}", f"give a number from 1 to {MOST_SEQUENCES}")


def parse_shares(shares: str | None, ranks: int | None) -> list[float]:
    """Return each rank's share. Raises UsageError if they are no numbers, or do not match --ranks."""
    if ranks is not None and not 1 <= ranks <= MOST_RANKS:
        raise UsageError(f"--ranks {ranks}", f"give a number from 1 to {MOST_RANKS}")
    if shares is None:
        return [1.0] * (ranks or 1)
    try:
        numbers = [float(word) for word in shares.split(",")]
    except ValueError:
        raise UsageError(f"--shares {shares}", "give a number for every rank, as in 3,2") from None
    if not all(0 < number <= LARGEST_SHARE for number in numbers):
        raise UsageError(f"--shares {shares}", "every rank needs a number above 0, as in 3,2")
    if ranks is not None and ranks != len(numbers):
        raise UsageError(f"--shares {shares} names {len(numbers)} ranks, but --ranks says {ranks}")
    return numbers


def node_names(nodes: str | None) -> list[str] | None:
    """Return the nodes that --nodes names; None for all. Raises UsageError if it names none."""
    if nodes is None or nodes == "all":
        return None
    names = list(dict.fromkeys(n.strip().lower() for n in nodes.split(",") if n.strip()))
    if not names:
        raise UsageError(f"--nodes {nodes}", "name some, as in pi-1,pi-2, or say `all`")
    return names
