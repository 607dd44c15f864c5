"""What `dure tune` is told of a rented pod, and the model that it may fetch there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dure.errors import UsageError
from dure.model.store import Library, located
from dure.model.store.names import parse_name

__all__ = ["PodBase", "PodRunOptions", "pod_base"]

POD = "On a rented pod"


@dataclass(frozen=True)
class PodRunOptions:
    """Where a run is, if it is not here, and what becomes of the pod."""

    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="POD",
            help="Tune on this pod of `dure pod up --template workbench`; what it makes comes home.",
            show_default=False,
            rich_help_panel=POD,
        ),
    ] = None
    stop: Annotated[
        bool,
        typer.Option(
            "--stop",
            help="With --on: end the run with a checkpoint, and bring that home.",
            rich_help_panel=POD,
        ),
    ] = False
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="With --on: do not end the pod when the result is home.",
            rich_help_panel=POD,
        ),
    ] = False
    hold: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="With --on: how long a result waits there for this machine, if no limit of the pod ends "
            "it before.",
            rich_help_panel=POD,
        ),
    ] = "8h"
    hf_token: Annotated[
        bool | None,
        typer.Option(
            "--hf-token/--no-hf-token",
            help="With --on: hand your token of Hugging Face to the pod, by ssh alone.",
            show_default="if BASE is gated",
            rich_help_panel=POD,
        ),
    ] = None
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="With --on: do not ask.", rich_help_panel=POD),
    ] = False

    def check(self, gpus: int) -> None:
        """Raise UsageError for what makes no sense without a pod, or with one."""
        if self.on is not None:
            if gpus > 1:
                raise UsageError(
                    f"--on with --gpus {gpus}", "leave out --gpus: a run has one there"
                )
            return
        for option, given in (("--stop", self.stop), ("--keep", self.keep)):
            if given:
                raise UsageError(f"{option} without --on", "name a pod with --on")


@dataclass(frozen=True)
class PodBase:
    """A base. path: as settings have it. hub: the name by which the pod fetches it; "" if it is copied."""

    path: Path
    hub: str = ""

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine too."""
        return self.path.exists()


def pod_base(text: str) -> PodBase:
    """Return the base of a name: what has a name of the hub is fetched by the pod itself.

    Raises UsageError if nothing has this name.
    """
    if Path(text).exists():
        return PodBase(Path(text))
    library = Library()
    found = located(text, library)
    if not isinstance(found, Path):
        return PodBase(Path(str(found)), str(found))
    model = library.find(text)
    if model is None or model.record is None:
        return PodBase(found)
    name = model.record.name
    file = f":{found.name}" if ":" not in name.removeprefix("hf:") else ""
    return PodBase(found, str(parse_name(f"{name}{file}")))
