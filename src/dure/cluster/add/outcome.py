"""How a machine ended that was to become a node, and who follows that."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from dure.cluster.add.failures import StepError
from dure.cluster.add.preparing import AddStep
from dure.hardware.health import Platform

__all__ = ["AddProgress", "Outcome", "OutcomeState"]


class OutcomeState(StrEnum):
    """How it ended. joined: all is done, but without its service, as --no-service asks."""

    ANSWERS = "answers"
    JOINED = "joined"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """How one machine ended. node: its name in the cluster. done: the steps that changed something."""

    host: str
    state: OutcomeState
    node: str = ""
    done: tuple[AddStep, ...] = ()
    platform: Platform | None = None
    failure: StepError | None = None


class AddProgress(Protocol):
    """Follows how machines become nodes; is called by several threads."""

    def began(self, host: str, step: AddStep) -> None:
        """Note that a step begins."""

    def printed(self, host: str, line: str) -> None:
        """Note a line that a step's command printed."""

    def ended(self, outcome: Outcome) -> None:
        """Note how a machine ended."""
