"""What happens in a run, as it happens: plain values for a terminal, a file or a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "DataRead",
    "Evaluated",
    "ModelReady",
    "Notice",
    "Observer",
    "Resumed",
    "RunEnded",
    "Saved",
    "StepLearned",
    "TuneEvent",
    "event_data",
    "event_from",
]


@dataclass(frozen=True)
class DataRead:
    """The examples were read. text: in words."""

    text: str
    examples: int
    tokens: int
    answers: int
    held_out: int


@dataclass(frozen=True)
class ModelReady:
    """The model is in memory. weights: of all; learned: that change. arithmetic: bfloat16 or float32.

    processes: that share each step.
    """

    weights: int
    learned: int
    arithmetic: str
    device: str
    steps: int
    ctx: int
    processes: int = 1


@dataclass(frozen=True)
class Resumed:
    """The run goes on after this number of steps."""

    step: int
    steps: int


@dataclass(frozen=True)
class StepLearned:
    """A step was done; they count from 1. loss: in nats a token. norm: of the gradient before clipping."""

    step: int
    steps: int
    loss: float
    lr: float
    norm: float
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Evaluated:
    """The loss on examples that are never learned."""

    step: int
    loss: float
    is_best: bool


@dataclass(frozen=True)
class Saved:
    """A checkpoint is whole."""

    step: int
    path: Path


@dataclass(frozen=True)
class Notice:
    """Something that a user may not expect."""

    text: str


@dataclass(frozen=True)
class RunEnded:
    """The run is over. path: of the result. step: whose weights it has. stopped_early: by --patience."""

    path: Path
    step: int
    steps: int
    loss: float | None
    eval_loss: float | None
    stopped_early: bool = False


TuneEvent = DataRead | ModelReady | Resumed | StepLearned | Evaluated | Saved | Notice | RunEnded
Observer = Callable[[TuneEvent], None]

_NAMES = {
    DataRead: "data",
    ModelReady: "model",
    Resumed: "resumed",
    StepLearned: "step",
    Evaluated: "evaluation",
    Saved: "checkpoint",
    Notice: "notice",
    RunEnded: "finished",
}


def event_data(event: TuneEvent) -> dict[str, Any]:
    """Return an event as JSON has it."""
    said = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(event).items()}
    return {"event": _NAMES[type(event)], **said}


def event_from(said: Mapping[str, Any]) -> TuneEvent | None:
    """Return the event that `event_data` has written; None for one that is not known."""
    kind = next((kind for kind, name in _NAMES.items() if name == said["event"]), None)
    if kind is None:
        return None
    fields = {key: value for key, value in said.items() if key != "event"}
    if "path" in fields:
        fields["path"] = Path(fields["path"])
    found: TuneEvent = kind(**fields)
    return found
