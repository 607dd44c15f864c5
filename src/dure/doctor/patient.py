"""A machine that is examined and changed, and this one as such. A node is in `cluster`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from dure.cluster.examination import condition_here
from dure.doctor.changes import HERE
from dure.hardware.examination.condition import Condition
from dure.hardware.settings import MachineSettings, Settings

__all__ = ["Patient", "ThisMachine"]


class Patient(Protocol):
    """A machine, here or elsewhere. name: `HERE` for this one."""

    @property
    def name(self) -> str:
        """Its name in the cluster."""

    @property
    def settings(self) -> Settings:
        """What of it can be changed."""

    def condition(self, only: Collection[str] = ()) -> Condition:
        """Examine it. only: the readings that are wanted. Raises DureError."""


class ThisMachine:
    """The machine that this process runs on."""

    name = HERE

    @property
    def settings(self) -> Settings:
        """What of it can be changed."""
        return MachineSettings()

    def condition(self, only: Collection[str] = ()) -> Condition:
        """Examine it."""
        return condition_here(only=only)
