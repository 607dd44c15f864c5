"""What `dure quantize` is asked for: a mixture by name, or a choice within a size, a speed, or both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dure.cli.terminal.parameters import CLUSTER, Ranks, Shares
from dure.cli.terminal.quantities import bytes_of, tokens_per_s_of
from dure.cluster.job_identity import JobIdentity
from dure.convert.quantize.choosing import CANDIDATES
from dure.convert.quantize.llama_types import Mixture, mixture_named
from dure.deploy.options import RunOptions
from dure.errors import UsageError
from dure.model.ggml import type_named
from dure.model.gguf import GgufFile

__all__ = ["Frontier", "MixtureOptions", "Target", "WhereItRuns", "allowed_types"]

TARGET, MIXTURE = "Target", "With --type"
_MOST_BITS = 32.0


class Frontier(StrEnum):
    """What is varied, to see the error."""

    SIZE = "size"
    SPEED = "speed"


@dataclass(frozen=True)
class Target:
    """What the file should be."""

    type_: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="Q4_K_M|...",
            help="A mixture of llama.cpp's, with the same bytes as its quantizer's.",
            rich_help_panel=TARGET,
        ),
    ] = None
    target_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="At most this size, as in 10GB: the types with the least error.",
            rich_help_panel=TARGET,
        ),
    ] = None
    target_bpw: Annotated[
        float | None,
        typer.Option(
            metavar="BITS",
            help="At most this mean number of bits a weight, as in 2.7.",
            rich_help_panel=TARGET,
        ),
    ] = None
    target_speed: Annotated[
        str | None,
        typer.Option(
            metavar="SPEED",
            help="At least this speed of generating, as in 9tok/s, on this machine or the cluster; with a "
            "size, both.",
            rich_help_panel=TARGET,
        ),
    ] = None
    frontier: Annotated[
        Frontier | None,
        typer.Option(
            "--frontier",
            help="Show the least error at every size, or at every speed, and write no model.",
            rich_help_panel=TARGET,
        ),
    ] = None

    def check(self) -> None:
        """Raise UsageError unless there is a target, and it makes sense."""
        given = {
            "--type": self.type_ is not None,
            "--target-size": self.target_size is not None,
            "--target-bpw": self.target_bpw is not None,
            "--target-speed": self.target_speed is not None,
            "--frontier": self.frontier is not None,
        }
        names = {name for name, is_given in given.items() if is_given}
        if not names:
            raise UsageError("no target", f"give one of {', '.join(given)}")
        if len(names) > 1 and (
            names & {"--type", "--frontier"} or {"--target-size", "--target-bpw"} <= names
        ):
            raise UsageError(f"{' and '.join(sorted(names))} exclude each other", "give one")
        if self.target_bpw is not None and not 0 < self.target_bpw <= _MOST_BITS:
            raise UsageError(f"--target-bpw {self.target_bpw:g}", "give bits as in 2.7")
        if self.type_:
            mixture_named(self.type_)
        self.file_bytes, self.tokens_per_s  # noqa: B018 - they are checked

    @property
    def tokens_per_s(self) -> float | None:
        """Return the speed that is asked for. Raises UsageError."""
        return tokens_per_s_of("--target-speed", self.target_speed) if self.target_speed else None

    @property
    def label(self) -> str:
        """Return what the file is called by."""
        if self.type_:
            return mixture_named(self.type_)
        bits = f"{self.target_bpw:g}bpw" if self.target_bpw is not None else None
        speed = f"{self.tokens_per_s:g}tps" if self.tokens_per_s else None
        return "-".join(one for one in (self.target_size, bits, speed) if one)

    @property
    def file_bytes(self) -> float:
        """Return the bytes that the file may have."""
        return bytes_of("--target-size", self.target_size) if self.target_size else math.inf

    def tensor_bytes(self, model: GgufFile) -> float:
        """Return the bytes that all tensors may have together."""
        if self.target_bpw is not None:
            n = sum(tensor.n_elements for tensor in model.tensors.values())
            return self.target_bpw * n / 8
        return self.file_bytes


@dataclass(frozen=True)
class MixtureOptions:
    """What llama.cpp's quantizer is told besides."""

    pure: Annotated[
        bool,
        typer.Option("--pure", help="Give every tensor the same type.", rich_help_panel=MIXTURE),
    ] = False
    output_type: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="Type of the output matrix.", rich_help_panel=MIXTURE),
    ] = None
    embedding_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="Type of the table of embeddings.", rich_help_panel=MIXTURE
        ),
    ] = None

    def mixture(self, name: str) -> Mixture:
        """Return what llama.cpp is asked for. Raises UsageError or ModelError."""
        for one in (self.output_type, self.embedding_type):
            if one:
                type_named(one)
        return Mixture(mixture_named(name), self.pure, self.output_type, self.embedding_type)


@dataclass(frozen=True)
class WhereItRuns:
    """Where the model will run: its speed is meant there, and its blocks must fit that cut."""

    ranks: Ranks = None
    shares: Shares = None
    cluster: Annotated[
        bool,
        typer.Option("--cluster", help="On the cluster's machines.", rich_help_panel=CLUSTER),
    ] = False
    nodes: Annotated[
        str | None,
        typer.Option(
            "--nodes",
            help="With --cluster: on exactly these nodes, as in pi-1,pi-2, or `all`.",
            show_default="those that make it faster",
            rich_help_panel=CLUSTER,
        ),
    ] = None

    def options(self, model: Path) -> RunOptions:
        """Return the options of a start."""
        return RunOptions(
            ranks=self.ranks,
            shares=self.shares,
            cluster=self.cluster,
            nodes=self.nodes,
            job=JobIdentity.new("quantize", model.stem),
        )


def allowed_types(types: str | None) -> tuple[str, ...]:
    """Return the types to choose from, from --types. Raises ModelError for a name that is none."""
    if types is None:
        return CANDIDATES
    return tuple(type_named(name.strip()).name for name in types.split(","))
