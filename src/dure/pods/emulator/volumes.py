"""The network volumes of an account: made, grown, mounted by pods, and deleted.

Knows no HTTP. What RunPod's documentation does not say is a belief, and marked as one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from dure.pods.emulator.faults import ApiRefusal, Fault, FaultCounts, check_fields

__all__ = ["DATA_CENTERS", "AccountVolumes"]

DATA_CENTERS = ("EMU-1", "EMU-2", "EU-RO-1")
_CREATE = {"name", "size", "dataCenter", "type"}
_SMALLEST, _LARGEST = 10, 4096


class AccountVolumes:
    """The volumes by id. users: tells which living pods mount one."""

    def __init__(self, faults: FaultCounts, users: Callable[[str], list[str]]) -> None:
        self.by_id: dict[str, dict[str, Any]] = {}
        self._faults, self._users = faults, users

    def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make one of a CreateNetworkVolumeRequest. Raises ApiRefusal."""
        check_fields(body, _CREATE, frozenset({"name", "size", "dataCenter"}))
        if self._faults.happens(Fault.NO_BALANCE):
            raise ApiRefusal(402, "Payment Required", "the balance is too low")
        size = _size(body["size"])
        if (
            body["dataCenter"] not in DATA_CENTERS
        ):  # a belief: 400, as for what else is not to be had
            raise ApiRefusal(400, "Bad Request", f"no storage in {body['dataCenter']}")
        volume: dict[str, Any] = {
            "id": secrets.token_hex(5),
            "name": str(body["name"]),
            "size": size,
            "dataCenter": str(body["dataCenter"]),
            "type": str(body.get("type", "STANDARD")),
        }
        self.by_id[volume["id"]] = volume
        return volume

    def find(self, volume_id: str) -> dict[str, Any]:
        """Return one. Raises ApiRefusal."""
        if volume_id not in self.by_id:
            raise ApiRefusal(404, "Not Found", f"no network volume {volume_id}")
        return self.by_id[volume_id]

    def change(self, volume_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Rename one, or let it grow. Raises ApiRefusal."""
        check_fields(body, {"name", "size"})
        volume = self.find(volume_id)
        size = _size(body.get("size", volume["size"]))
        if size < volume["size"]:
            raise ApiRefusal(400, "Bad Request", "a network volume cannot shrink")
        volume |= {"name": str(body.get("name", volume["name"])), "size": size}
        return volume

    def delete(self, volume_id: str) -> None:
        """Delete one. Raises ApiRefusal, while a pod mounts it too: a belief."""
        self.find(volume_id)
        if users := self._users(volume_id):
            raise ApiRefusal(409, "Conflict", f"it is used by {', '.join(users)}")
        if not self._faults.happens(Fault.DEAF_DELETE):
            del self.by_id[volume_id]

    def check_mounts(self, body: Mapping[str, Any]) -> None:
        """Check what a new pod mounts. Raises ApiRefusal."""
        for mount in (body.get("mounts") or {}).get("network") or ():
            volume = self.by_id.get(str(mount.get("volumeId")))
            centers = body.get("dataCenterIds") or ()
            if volume is None or body.get("cloud") == "COMMUNITY":
                raise ApiRefusal(400, "Bad Request", "the network volume cannot be mounted")
            if centers and volume["dataCenter"] not in centers:
                raise ApiRefusal(400, "Bad Request", f"the volume is in {volume['dataCenter']}")


def _size(size: Any) -> int:
    if not isinstance(size, int) or not _SMALLEST <= size <= _LARGEST:
        raise ApiRefusal(
            422, "Unprocessable Entity", f"size {size!r} is not {_SMALLEST} to {_LARGEST}"
        )
    return size
