"""What dure asks of a provider of pods, in its own values; a provider is whoever answers these calls.

Knows no HTTP. `runpod` is one provider, and `emulator` a server that it can be pointed at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from dure.errors import DureError
from dure.pods.money import Disks, Money

__all__ = [
    "ConflictError",
    "GpuOffer",
    "LostAnswerError",
    "NetworkVolume",
    "Pod",
    "PodError",
    "PodProvider",
    "PodSpec",
    "PodStatus",
    "SshDoor",
]


class PodStatus(StrEnum):
    """A pod's state as the provider tells it; UNKNOWN is one that dure has no word for."""

    PROVISIONING = "PROVISIONING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    EXITED = "EXITED"
    ERROR = "ERROR"
    TERMINATED = "TERMINATED"
    UNKNOWN = "UNKNOWN"

    @property
    def is_over(self) -> bool:
        """Whether a GPU is certainly not paid for: every other state counts as running."""
        return self in {PodStatus.EXITED, PodStatus.TERMINATED}


class PodError(DureError):
    """The provider does not do what was asked for. status: of HTTP, 0 if it did not answer."""

    def __init__(self, problem: str, cure: str = "", *, status: int = 0) -> None:
        super().__init__(problem, cure, status=status)
        self.status = status


class ConflictError(PodError):
    """The pod is in a state in which this cannot be done; `actions` are what it allows now."""

    def __init__(
        self, problem: str, cure: str = "", *, actions: tuple[str, ...] | list[str] = ()
    ) -> None:
        super().__init__(problem, cure, status=409)
        self._facts = {"actions": list(actions)}
        self.actions = tuple(actions)


class LostAnswerError(PodError):
    """It is not known whether the provider did what was asked: the request may have arrived."""


@dataclass(frozen=True)
class SshDoor:
    """Where a pod's sshd is reached from outside."""

    host: str
    port: int
    user: str


@dataclass(frozen=True)
class Pod:
    """A pod as the provider lists it.

    hourly: what it costs now. gpus: how many it has now; None if that is not told. gpu_percent,
    cpu_percent: how busy they are; None if that is not told. door: None until its port is mapped.
    """

    id: str
    name: str
    status: PodStatus
    hourly: Money
    actions: tuple[str, ...] = ()
    locked: bool = False
    door: SshDoor | None = None
    gpu: str = ""
    gpus: int | None = None
    gpu_percent: float | None = None
    cpu_percent: float | None = None
    created_at: str = ""
    started_at: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    image: str = ""


@dataclass(frozen=True)
class GpuOffer:
    """A kind of GPU that can be rented, and its price per hour for one. memory: in GB."""

    id: str
    name: str
    memory: int
    secure: Money | None
    community: Money | None
    availability: str = ""
    most: Mapping[str, int] = field(default_factory=dict)

    def price(self, cloud: str) -> Money | None:
        """Return the price in a cloud, `SECURE` or `COMMUNITY`; None if it is not there."""
        return self.secure if cloud == "SECURE" else self.community


@dataclass(frozen=True)
class NetworkVolume:
    """Storage that outlives pods, in one data center. size: in GB. kind: the provider's tier."""

    id: str
    name: str
    size: int
    data_center: str
    kind: str = ""


@dataclass(frozen=True)
class PodSpec:
    """What a pod is made of. args: what process 1 runs. data_center: "" for any."""

    name: str
    image: str
    args: str
    env: Mapping[str, str]
    gpu: str
    gpus: int
    cloud: str
    disks: Disks
    volume_path: str = "/workspace"
    network_volume: str = ""
    data_center: str = ""
    ports: tuple[str, ...] = ("22/tcp",)


class PodProvider(Protocol):
    """The calls. All raise PodError; those that change something LostAnswerError if they may have."""

    endpoint: str

    def gpus(self, cloud: str = "", count: int = 1) -> list[GpuOffer]:
        """List kinds of GPUs with prices and availability."""

    def now(self) -> float:
        """Return the provider's time at its last answer, in seconds since 1970.

        Its clock is the one that bills, and a small board may have none of its own.
        """

    def pods(self) -> list[Pod]:
        """List every pod of the account."""

    def pod(self, pod_id: str) -> Pod | None:
        """Return a pod; None if the provider has no such pod."""

    def create(self, spec: PodSpec) -> Pod:
        """Make a pod. Not idempotent: never repeat it after LostAnswerError."""

    def set_env(self, pod_id: str, env: Mapping[str, str]) -> Pod:
        """Replace the environment of a stopped pod."""

    def start(self, pod_id: str) -> None:
        """Start a stopped pod."""

    def stop(self, pod_id: str) -> None:
        """Ask for a stop. That it was accepted does not mean that it has stopped."""

    def terminate(self, pod_id: str) -> None:
        """Ask for the end of a pod; silent if it is gone already."""

    def logs(
        self, pod_id: str, after: str = "", silence_s: float | None = None
    ) -> Iterator[tuple[str, str]]:
        """Yield each line of a pod's log with its id. after: the id to go on from.

        silence_s: ends after so long without a line; None waits on.
        """

    def billed(self, pod_id: str) -> Money:
        """Return what the provider has billed for a pod so far; it may lag behind."""

    def network_volumes(self) -> list[NetworkVolume]:
        """List the network volumes of the account."""

    def create_network_volume(self, name: str, size: int, data_center: str) -> NetworkVolume:
        """Make a network volume of some GB. Never repeat it after LostAnswerError."""

    def delete_network_volume(self, volume_id: str) -> None:
        """Ask for a volume's end, with its files; silent if it is gone already."""
