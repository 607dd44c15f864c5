"""What people have measured and shared, in records with nothing personal, and what is predicted for it.

Knows their form, and that each is a file of the catalogue. Refuses to know how one is made, and to fit
anything.
"""

from __future__ import annotations

import math
import textwrap
import tomllib
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dure.errors import CutError, ModelError, UsageError
from dure.plan.devices import NetworkLink
from dure.plan.expectation import Expectation, Expectations
from dure.plan.figures import Basis, Figure
from dure.plan.machines import device_like, engine_named, link_named
from dure.plan.model_record import ModelRecord
from dure.plan.record_text import toml_text
from dure.plan.setups import Setup

__all__ = [
    "CONTENTS",
    "LinkRecord",
    "MachineRecord",
    "Measurement",
    "RunRecord",
    "SpeedRecord",
    "measurements",
    "read_measurement",
    "rounded_gib",
]

CONTENTS = (
    "It has the model's sizes and types; of each machine its processor, instructions, cores, rounded "
    "memory, share, and speeds; of their slowest link the speed and the round trip; what was measured and "
    "predicted; versions, and the month. It has no name of a person, a machine or a file, no address, and "
    "no serial number."
)
"""What is in a record, for a person."""

_SOURCE = "`dure bench --share`"
_WIDTH = 98  # of a comment
_GIB = 2**30
_QUIET = 0.1  # of the tokens

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Line = Annotated[str, Meta(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]


class MachineRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """A kind of machine, with its share of the model.

    processor: its name, or the board's. features: see `Platform`. is_limited: a container or a service
    gives it less than it has. reads, multiplies, multiplies_few, layer_s, column_s: measured of it alone,
    by type; see `Processor`. Empty or None: not known.
    """

    processor: Line
    architecture: Line
    features: tuple[Line, ...]
    cores: Count
    memory_gib: Positive
    threads: Count
    share: Positive
    is_limited: bool = False
    reads: dict[Line, Positive] = {}
    multiplies: dict[Line, Positive] = {}
    multiplies_few: dict[Line, Positive] = {}
    layer_s: Positive | None = None
    column_s: Positive | None = None


class LinkRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The slowest link between a node and the root."""

    bytes_per_s: Positive
    round_trip_s: Positive


class SpeedRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The tokens a second of some runs of `tokens` tokens each: the median, the least and the most.

    predicted: the same from the machines' own figures, and what it was to lie between; None: too little was
    known.
    """

    tokens: Count
    runs: Count
    per_s: Positive
    least: Positive
    most: Positive
    predicted: Positive | None = None
    predicted_low: Positive | None = None
    predicted_high: Positive | None = None


class RunRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured after `depth` tokens. Milliseconds and bytes are of a generated token.

    disturbed: the part of the generated tokens that other programs made slower.
    """

    depth: Annotated[int, Meta(ge=0)]
    prompt: SpeedRecord
    generation: SpeedRecord
    compute_ms: float
    sync_ms: float
    idle_ms: float
    sent_bytes: float
    disturbed: Annotated[float, Meta(ge=0, le=1)]

    @property
    def is_quiet(self) -> bool:
        """Return whether the machines had nothing else to do."""
        return self.disturbed <= _QUIET


class Measurement(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """A model on machines, the root first. software: versions. sync: the format of sums. month: 2026-11."""

    month: Annotated[str, Meta(pattern=r"^20\d\d-(0[1-9]|1[0-2])$")]
    software: dict[Line, Line]
    sync: Line
    model: ModelRecord
    machines: Annotated[tuple[MachineRecord, ...], Meta(min_length=1, max_length=1024)]
    link: LinkRecord | None = None
    runs: Annotated[tuple[RunRecord, ...], Meta(min_length=1)]

    @property
    def title(self) -> str:
        """Return the machines, alike ones once, as in "4 x Intel(R) N150, 4 cores, 16 GiB"."""
        kinds = Counter(
            f"{one.processor}, {one.cores} cores, {one.memory_gib:g} GiB" for one in self.machines
        )
        return " and ".join(f"{n} x {kind}" if n > 1 else kind for kind, n in kinds.items())

    def facts(self) -> dict[str, Any]:
        """Return it as plain data."""
        facts: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return facts

    def text(self) -> str:
        """Return the content of its file."""
        about = textwrap.wrap(f"Measured by `dure bench --share`. {CONTENTS}", _WIDTH)
        return toml_text(self.facts(), about)

    def in_catalogue(self) -> Setup | None:
        """Return these machines as the catalogue has them, over their own link; None if it lacks one."""
        found = [device_like(one.processor, one.memory_gib * _GIB) for one in self.machines]
        devices = tuple(one for one in found if one is not None)
        if len(devices) < len(found) or (len(devices) > 1 and self.link is None):
            return None
        names = tuple(one.title for one in devices)
        return Setup(names, devices, self._link(), engine_named("dure"))

    def _link(self) -> NetworkLink:
        if self.link is None:
            return link_named("1gbe")  # nobody is there to talk to
        return NetworkLink(
            "their slowest link",
            Figure(self.link.bytes_per_s, Basis.PUBLISHED, _SOURCE, self.month),
            Figure(self.link.round_trip_s / 2, Basis.PUBLISHED, _SOURCE, self.month),
        )

    def predicted(self, run: RunRecord) -> Expectation | None:
        """Return what the catalogue has one expect of a run; None if it does not know the machines."""
        setup = self.in_catalogue()
        if setup is None:
            return None
        try:
            expected = Expectations(
                self.model.header(), setup, [one.share for one in self.machines]
            )
        except (CutError, ModelError):
            return None  # a model that llama.cpp runs, and a plan does not know
        return expected.of(run.prompt.tokens, run.generation.tokens, run.depth)


def read_measurement(text: str, name: str) -> Measurement:
    """Return the record in a file's text. Raises UsageError, with the file's name, if it is none."""
    try:
        return msgspec.toml.decode(text, type=Measurement)
    except (msgspec.MsgspecError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            f"{name} is no measurement: {error}", "write it with `dure bench --share`"
        ) from error


@cache
def measurements() -> Mapping[str, Measurement]:
    """Return the records of the catalogue by name, in the order of their names."""
    folder = resources.files("dure.plan.catalogue") / "measurements"
    files = sorted(one.name for one in folder.iterdir() if one.name.endswith(".toml"))
    return {
        name.removesuffix(".toml"): read_measurement((folder / name).read_text("utf-8"), name)
        for name in files
    }


def rounded_gib(n_bytes: float) -> float:
    """Return the memory that a machine was sold with: Linux has less, by what graphics and kernel take."""
    gib = n_bytes / _GIB
    step = max(0.5, 2.0 ** math.floor(math.log2(gib)) / 4)
    return math.ceil(gib / step) * step
