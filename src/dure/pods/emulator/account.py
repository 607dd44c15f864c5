"""An account with its pods: what each call changes, what is billed, and what goes wrong.

Knows no HTTP. A pod may have a machine, on which its start command really runs.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from dure.pods.emulator.faults import ApiRefusal, Fault, FaultCounts, check_fields
from dure.pods.emulator.volumes import AccountVolumes
from dure.pods.money import HOUR_S, Disks, Money

__all__ = ["GPUS", "Account", "EmulatedPod", "EmulatorClock", "PodMachine"]

_CREATE = {
    "args", "disk", "env", "image", "ports", "registry", "name", "cloud", "cpu", "dataCenterIds",
    "globalNetworking", "gpu", "mounts", "startJupyter", "startSsh", "templateId",
}  # fmt: skip
_PATCH = {
    "args", "disk", "env", "image", "ports", "registry", "globalNetworking", "locked", "mounts",
    "name", "templateId",
}  # fmt: skip
GPUS: dict[str, tuple[str, int, str, str]] = {  # id: name, GB, dollars in each cloud
    "NVIDIA RTX A5000": ("RTX A5000", 24, "0.29", "0.19"),
    "NVIDIA GeForce RTX 4090": ("RTX 4090", 24, "0.69", "0.64"),
    "NVIDIA L40S": ("L40S", 48, "0.86", "0.79"),
    "NVIDIA H100 80GB HBM3": ("H100 SXM", 80, "2.69", "0"),
}


class PodMachine(Protocol):
    """Where a pod's start command runs."""

    def start(self, pod: EmulatedPod) -> int:
        """Run it, and return the port of its sshd."""

    def stop(self, *, wipe: bool) -> None:
        """End it. wipe: the volume too, as its pod is terminated."""

    def log(self) -> list[str]:
        """Return the lines that it wrote."""


@dataclass
class EmulatorClock:
    """The provider's time. is_running: False for one that only `forward` moves."""

    is_running: bool = False
    start: float = field(default_factory=lambda: float(int(time.time())))
    moved_s: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        """Return seconds since 1970."""
        ran = time.monotonic() - self._began if self.is_running else 0.0
        return self.start + self.moved_s + ran

    def forward(self, seconds: float) -> None:
        """Let time pass."""
        self.moved_s += seconds


@dataclass
class EmulatedPod:
    """A pod. key: of this pod alone. owed: millionths of a dollar times seconds of an hour."""

    id: str
    name: str
    body: dict[str, Any]
    env: dict[str, str]
    disks: Disks
    gpu_price: Money
    key: str
    created_at: float
    seen_at: float
    status: str = "RUNNING"
    started_at: float = 0.0
    ended_at: float = 0.0
    gpus: int = 1
    port: int = 0
    former_port: int = 0
    locked: bool = False
    gpu_percent: float = 0.0
    cpu_percent: float = 0.0
    owed: float = 0.0
    machine: PodMachine | None = None

    @property
    def hourly(self) -> Money:
        """What it costs now."""
        if self.status == "TERMINATED":
            return Money()
        if self.status == "EXITED":
            return self.disks.stopped
        return self.gpu_price * self.gpus + self.disks.running

    @property
    def actions(self) -> list[str]:
        """What may be done with it now."""
        if self.locked or self.status == "TERMINATED":
            return []
        return (
            ["start", "terminate"] if self.status == "EXITED" else ["stop", "restart", "terminate"]
        )


class Account:
    """Everything of one account. machine: makes the machine of a new pod; None for pods without."""

    def __init__(
        self,
        clock: EmulatorClock | None = None,
        machine: Callable[[], PodMachine] | None = None,
        boot_s: float = 0.0,
        key: str = "emulator-key",
    ) -> None:
        self.clock = clock or EmulatorClock()
        self.faults = FaultCounts()
        self.pods: dict[str, EmulatedPod] = {}
        self.volumes = AccountVolumes(self.faults, self._users)
        self.key, self.boot_s, self._machine = key, boot_s, machine
        self._ports = itertools.count(40000)

    # ------------------------------------------------------------ money and time

    def settle(self) -> None:
        """Count what every pod has cost until now, and let new ones come up."""
        now = self.clock.now()
        for pod in self.pods.values():
            pod.owed += pod.hourly.micros * (now - pod.seen_at)
            pod.seen_at = now
            if pod.status == "PROVISIONING" and now >= pod.started_at + self.boot_s:
                pod.status = "RUNNING"

    def billed(self, pod_id: str = "") -> Money:
        """Return what was billed, for one pod or for all."""
        self.settle()
        chosen = [p for p in self.pods.values() if pod_id in {"", p.id}]
        return Money(-(-round(sum(p.owed for p in chosen)) // HOUR_S))

    def billing(self) -> list[EmulatedPod]:
        """Return the pods whose GPU is paid for now."""
        self.settle()
        return [p for p in self.pods.values() if p.status not in {"EXITED", "TERMINATED"}]

    # ------------------------------------------------------------ calls

    def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a pod of a CreatePodRequest. Raises ApiRefusal."""
        check_fields(body, _CREATE, frozenset({"name"}))
        if self.faults.happens(Fault.NO_BALANCE):
            raise ApiRefusal(402, "Payment Required", "the balance is too low")
        if self.faults.happens(Fault.NO_CAPACITY):
            raise ApiRefusal(400, "Bad Request", "there are no instances with these specifications")
        gpu = body.get("gpu") or {}
        offer = GPUS.get(str(gpu.get("id")))
        if offer is None:
            raise ApiRefusal(400, "Bad Request", f"no such GPU: {gpu.get('id')}")
        mounts = body.get("mounts") or {}
        self.volumes.check_mounts(body)
        price = Money.of(offer[3] if body.get("cloud") == "COMMUNITY" else offer[2])
        pod = EmulatedPod(
            id=secrets.token_hex(7),
            name=str(body["name"]),
            body=dict(body),
            env=dict(body.get("env") or {}),
            disks=Disks(
                int(body.get("disk", 1)), int((mounts.get("persistent") or {}).get("size", 0))
            ),
            gpu_price=Money(price.micros * 3 // 2) if self.faults.happens(Fault.DEARER) else price,
            key=f"pod-{secrets.token_hex(12)}",
            created_at=self.clock.now(),
            seen_at=self.clock.now(),
            gpus=int(gpu.get("count", 1)),
            machine=self._machine() if self._machine else None,
        )
        self.pods[pod.id] = pod
        self._boot(pod)
        if self.faults.happens(Fault.ERROR_STATE):
            pod.status = "ERROR"
        return self.shown(pod)

    def find(self, pod_id: str) -> EmulatedPod:
        """Return a pod; one that ended is gone. Raises ApiRefusal."""
        self.settle()
        pod = self.pods.get(pod_id)
        if pod is None or pod.status == "TERMINATED":
            raise ApiRefusal(404, "Not Found", f"no pod {pod_id}")
        return pod

    def listed(self) -> list[dict[str, Any]]:
        """Return all pods that have not ended."""
        self.settle()
        pods = [pod for pod in self.pods.values() if pod.status != "TERMINATED"]
        if pods and self.faults.happens(Fault.UNLISTED):
            pods = pods[:-1]
        return [self.shown(pod) for pod in pods]

    def change(self, pod_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Change a pod by an UpdatePodRequest. Raises ApiRefusal."""
        check_fields(body, _PATCH)
        pod = self.find(pod_id)
        pod.env = dict(body.get("env", pod.env))
        pod.locked = bool(body.get("locked", pod.locked))
        return self.shown(pod)

    def act(self, pod_id: str, action: str) -> dict[str, Any]:
        """Start, stop, restart or terminate a pod. Raises ApiRefusal."""
        pod = self.find(pod_id)
        if action not in {"start", "stop", "restart", "terminate"}:
            raise ApiRefusal(422, "Unprocessable Entity", f"no such action: {action}")
        if action not in pod.actions or self.faults.happens(Fault.CONFLICT):
            what = "it is locked" if pod.locked else f"it is {pod.status}"
            raise ApiRefusal(409, "Conflict", what, actions=pod.actions)
        if action == "terminate":
            self._terminate(pod)
        elif action == "stop":
            self._stop(pod)
        else:
            self._restart(pod)
        return self.shown(pod)

    def terminate(self, pod_id: str) -> None:
        """End a pod. Raises ApiRefusal."""
        pod = self.find(pod_id)
        if pod.locked:
            raise ApiRefusal(409, "Conflict", "it is locked", actions=pod.actions)
        self._terminate(pod)

    def offers(self) -> list[dict[str, Any]]:
        """Return the catalogue."""
        return [_offer(gpu, *facts) for gpu, facts in GPUS.items()]

    def close(self) -> None:
        """End all machines."""
        for pod in self.pods.values():
            if pod.machine:
                pod.machine.stop(wipe=True)

    # ------------------------------------------------------------ one pod

    def _boot(self, pod: EmulatedPod) -> None:
        pod.status, pod.started_at = "PROVISIONING", self.clock.now()
        pod.former_port = pod.port
        pod.port = pod.machine.start(pod) if pod.machine else next(self._ports)

    def _users(self, volume_id: str) -> list[str]:
        """Return the pods that mount a network volume."""
        mounted = {"volumeId": volume_id}.items()
        return [
            pod.name
            for pod in self.pods.values()
            if pod.status != "TERMINATED"
            for mount in (pod.body.get("mounts") or {}).get("network") or ()
            if mounted <= mount.items()
        ]

    def _stop(self, pod: EmulatedPod) -> None:
        if self.faults.happens(Fault.DEAF_STOP):
            return
        pod.status = "EXITED"
        if pod.machine:
            pod.machine.stop(wipe=False)

    def _restart(self, pod: EmulatedPod) -> None:
        if pod.machine:
            pod.machine.stop(wipe=False)
        pod.gpus = (
            0 if self.faults.happens(Fault.ZERO_GPUS) else int(pod.body["gpu"].get("count", 1))
        )
        self._boot(pod)

    def _terminate(self, pod: EmulatedPod) -> None:
        if self.faults.happens(Fault.DEAF_TERMINATE):
            return
        pod.status, pod.ended_at = "TERMINATED", self.clock.now()
        if pod.machine:
            pod.machine.stop(wipe=True)

    def shown(self, pod: EmulatedPod) -> dict[str, Any]:
        """Return a pod as the API shows it."""
        self.settle()
        runs = pod.status == "RUNNING"
        body = pod.body
        return {
            "id": pod.id,
            "name": pod.name,
            "status": pod.status,
            "actions": pod.actions,
            "args": body.get("args", ""),
            "disk": pod.disks.container,
            "env": pod.env,
            "image": body.get("image", ""),
            "ports": body.get("ports", []),
            "registry": None,
            "mounts": body.get("mounts") or {},
            "gpu": {"id": body["gpu"]["id"], "count": pod.gpus},
            "cloud": body.get("cloud", "SECURE"),
            "dataCenterId": (body.get("dataCenterIds") or ["EMU-1"])[0],
            "cudaVersion": "12.8",
            "ssh": {"proxy": None, "direct": self._door(pod) if runs else None},
            "template": None,
            "cost": pod.hourly.dollars,
            "locked": pod.locked,
            "globalNetworking": {"enabled": False},
            "runtime": _runtime(pod, self.clock.now()) if runs else None,
            "createdAt": _date(pod.created_at),
            "startedAt": _date(pod.started_at),
        }

    def _door(self, pod: EmulatedPod) -> dict[str, Any] | None:
        if self.faults.happens(Fault.LATE_SSH):
            return None
        port = pod.port
        if pod.former_port and self.faults.happens(Fault.STALE_PORT):
            port = pod.former_port
        user = pod.env.get("USER", "root")
        command = f"ssh {user}@127.0.0.1 -p {port}"
        return {"host": "127.0.0.1", "port": port, "username": user, "command": command}


def _runtime(pod: EmulatedPod, now: float) -> dict[str, Any]:
    gpu = {"utilization": pod.gpu_percent, "memory": 0}
    return {
        "uptime": int(now - pod.started_at),
        "gpus": [gpu for _ in range(pod.gpus)],
        "cpu": {"utilization": pod.cpu_percent},
        "memory": {"utilization": 1},
        "ports": [{"private": 22, "public": pod.port, "type": "tcp", "ip": "127.0.0.1"}],
    }


def _offer(gpu: str, name: str, memory: int, secure: str, community: str) -> dict[str, Any]:
    return {
        "id": gpu,
        "name": name,
        "pool": None,
        "manufacturer": "NVIDIA",
        "memory": memory,
        "secure": float(secure) > 0,
        "community": float(community) > 0,
        "price": {"secure": float(secure), "community": float(community), "serverless": 0.0},
        "maxCount": {"secure": 8, "community": 4},
        "availability": "HIGH",
    }


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
