"""What a device, a link and an engine are to a plan: figures alone.

Refuses to know models, and where figures are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from dure.plan.figures import Basis, Figure

__all__ = ["Device", "DeviceKind", "EngineWays", "NetworkLink", "Processor"]

# Types of fewer than 4 bits: taking them apart costs more than reading them.
LOW_BITS = ("Q2_K", "Q3_K", "IQ1", "IQ2", "IQ3", "TQ")


class Processor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How fast weights are read and multiplied, by all cores or a graphics card.

    read: bytes of weights a second, when tokens are generated. tiled, plain: operations a second in a
    prompt, with weights that were repacked into tiles, and with others. features: see `plan/kernels.py`.
    low_bits: how fast types of fewer than 4 bits are read, beside others.
    reads, prompts: of single types, if these were measured; they win. fews: operations a second with
    n_few tokens at once, and what is read for them; those of prompts are with n_many. layer_s: that a
    layer takes of a token besides reading. column_s: that each column of vectors takes besides reading
    and multiplying. None: the other figures have it.
    """

    read: Figure
    tiled: Figure
    plain: Figure
    features: tuple[str, ...] = ()
    low_bits: float = 1.0
    reads: Mapping[str, Figure] = {}
    prompts: Mapping[str, Figure] = {}
    layer_s: Figure | None = None
    column_s: Figure | None = None
    fews: Mapping[str, Figure] = {}
    n_few: int = 0
    n_many: int = 0

    def read_speed(self, type_name: str) -> float:
        """Return the bytes of weights of a type that are read in a second."""
        if type_name in self.reads:
            return self.reads[type_name].value
        return self.read.value * (self.low_bits if type_name.startswith(LOW_BITS) else 1.0)

    def prompt_speed(self, type_name: str, *, is_tiled: bool) -> float:
        """Return the operations a second with weights of a type in a prompt."""
        if type_name in self.prompts:
            return self.prompts[type_name].value
        return (self.tiled if is_tiled else self.plain).value


class DeviceKind(StrEnum):
    """What one would call it in a shop."""

    BOARD = "board"
    MINI_PC = "mini PC"
    DESKTOP = "desktop"
    POD = "rented pod"


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine that can be had. memory: all of it. system: what its system takes of that.

    price: to buy it, in dollars; hourly: to rent it. watts: under load. engine: what would run there.
    reports: what the name begins with that such a machine's Linux has for its processor; "": not known.
    """

    title: str
    kind: DeviceKind
    processor: Processor
    memory: Figure
    system: Figure
    watts: Figure
    engine: str = "dure"
    price: Figure | None = None
    hourly: Figure | None = None
    link: str = "1gbe"
    reports: str = ""

    @property
    def free_bytes(self) -> float:
        """Return the memory that a model may have."""
        return self.memory.value - self.system.value

    @property
    def is_rented(self) -> bool:
        """Return whether it is paid by the hour."""
        return self.hourly is not None


class NetworkLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cable or a radio between two nodes, with what stands between.

    bytes_per_s: each way. exchange_s: that an exchange of nothing takes, with what both ends do for it.
    switch: the price of what connects up to `ports` nodes.
    """

    title: str
    bytes_per_s: Figure
    exchange_s: Figure
    switch: Figure | None = None
    ports: int = 5


class EngineWays(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an engine works, as far as speed goes.

    read_efficiency: of the processor's `read`. mixture_read, mixture_tiled: the same of experts, whose rows
    lie apart. uncut: of each column and each sum, bytes that could be read while every rank does alike what
    lies between products. exchange_factor: exchanges of a link that one sum takes. congestion: by how much
    bytes slow down with each node above four. is_star: all goes through the root, which has all logits.
    tiled: types that are repacked; None: what `plan/kernels.py` says. batch: tokens of a prompt at once.
    batches_experts: whether tokens of a prompt share the reading of experts.
    most_nodes: 0 if any number. sends_logits: whether ranks send all logits, or the best of them.
    two_phase: whether long vectors are summed in two phases. skips_last: whether the last feed-forward is
    left out for tokens of a prompt whose logits nobody wants.
    """

    title: str
    read_efficiency: Figure
    mixture_read: Figure
    mixture_tiled: Figure
    uncut: Figure
    exchange_factor: Figure
    congestion: Figure
    token_s: Figure
    is_star: bool = False
    tiled: tuple[str, ...] | None = None
    batch: int = 512
    batches_experts: bool = True
    most_nodes: int = 0
    sends_logits: bool = True
    two_phase: bool = False
    skips_last: bool = True

    @property
    def doubt(self) -> float:
        """Return by which part a speed of this engine may be wrong, whatever the device."""
        return 0.0 if self.uncut.basis is not Basis.ASSUMED else 0.1
