"""RunPod's JSON and dure's values, each made from the other.

A field that is missing is not guessed: money and states that cannot be read are errors or `UNKNOWN`,
which counts as running.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dure.pods.money import Money
from dure.pods.provider import GpuOffer, NetworkVolume, Pod, PodError, PodSpec, PodStatus, SshDoor

__all__ = ["offer_of", "pod_of", "public_url", "request_of", "volume_of"]

Json = Mapping[str, Any]


def pod_of(found: Json) -> Pod:
    """Return a pod of an answer. Raises PodError if it has no id, name or cost."""
    try:
        runtime = found.get("runtime") or {}
        gpus = runtime.get("gpus")
        return Pod(
            id=str(found["id"]),
            name=str(found["name"]),
            status=_status(found.get("status")),
            hourly=Money.of(found["cost"]),
            actions=tuple(map(str, found.get("actions") or ())),
            locked=bool(found.get("locked")),
            door=_door(found.get("ssh")),
            gpu=str((found.get("gpu") or {}).get("id", "")),
            gpus=None if gpus is None else len(gpus),
            gpu_percent=_busiest(gpus),
            cpu_percent=_percent(runtime.get("cpu")),
            created_at=str(found.get("createdAt") or ""),
            started_at=str(found.get("startedAt") or ""),
            env={str(k): str(v) for k, v in (found.get("env") or {}).items()},
            image=str(found.get("image") or ""),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PodError(
            f"a pod in the provider's answer cannot be read ({type(error).__name__}: {error})",
            "look at https://console.runpod.io/pods, and for a newer dure",
        ) from error


def public_url(pod_id: str, port: int) -> str:
    """Return where the provider's proxy shows a port of a pod to the world."""
    return f"https://{pod_id}-{port}.proxy.runpod.net"


def _status(word: Any) -> PodStatus:
    try:
        return PodStatus(str(word))
    except ValueError:
        return PodStatus.UNKNOWN


def _door(ssh: Any) -> SshDoor | None:
    """Return the direct way in; the provider's proxy is a terminal only, so it does not count."""
    direct = (ssh or {}).get("direct")
    if not direct or not direct.get("port"):
        return None
    return SshDoor(str(direct["host"]), int(direct["port"]), str(direct.get("username") or "root"))


def _percent(utilization: Any) -> float | None:
    value = utilization.get("utilization") if isinstance(utilization, dict) else utilization
    return None if value is None else float(value)


def _busiest(gpus: Any) -> float | None:
    told = [p for p in map(_percent, gpus or ()) if p is not None]
    return max(told, default=None)


def offer_of(found: Json) -> GpuOffer:
    """Return an offer of the catalogue; a cloud without the GPU has no price."""
    try:
        price = found["price"]
        return GpuOffer(
            id=str(found["id"]),
            name=str(found["name"]),
            memory=int(found["memory"]),
            secure=_price(price.get("secure")) if found.get("secure") else None,
            community=_price(price.get("community")) if found.get("community") else None,
            availability=str(found.get("availability") or ""),
            most={str(k).upper(): int(v) for k, v in (found.get("maxCount") or {}).items()},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PodError(
            f"a GPU in the provider's catalogue cannot be read ({type(error).__name__}: {error})",
            "look for a newer dure",
        ) from error


def _price(found: Any) -> Money | None:
    return Money.of(found) if found else None


def volume_of(found: Json) -> NetworkVolume:
    """Return a network volume of an answer. Raises PodError."""
    try:
        return NetworkVolume(
            id=str(found["id"]),
            name=str(found["name"]),
            size=int(found["size"]),
            data_center=str(found["dataCenter"]),
            kind=str(found.get("type") or ""),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PodError(
            f"a network volume in the provider's answer cannot be read ({type(error).__name__}: {error})",
            "look at https://console.runpod.io/user/storage, and for a newer dure",
        ) from error


def request_of(spec: PodSpec) -> dict[str, Any]:
    """Return the body that makes a pod: only fields of CreatePodRequest, as others are refused."""
    mounts: dict[str, Any] = {}
    if spec.network_volume:
        mounts["network"] = [{"volumeId": spec.network_volume, "path": spec.volume_path}]
    elif spec.disks.volume:
        mounts["persistent"] = {"size": spec.disks.volume, "path": spec.volume_path}
    body: dict[str, Any] = {
        "name": spec.name,
        "image": spec.image,
        "args": spec.args,
        "env": dict(spec.env),
        "disk": spec.disks.container,
        "ports": list(spec.ports),
        "cloud": spec.cloud,
        "gpu": {"id": spec.gpu, "count": spec.gpus},
        "startSsh": True,
    }
    if mounts:
        body["mounts"] = mounts
    if spec.data_center:
        body["dataCenterIds"] = [spec.data_center]
    return body
