"""A node as its root sees it: facts that only two machines have together."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dure.hardware.examination.condition import Condition, NetworkDevice

__all__ = ["NodeLink", "devices_between"]


@dataclass(frozen=True)
class NodeLink:
    """A node and its root.

    clock_ahead_s: of the root's. versions, root_versions: of software, by name. n_lost: packets of n_sent.
    devices: the root's and the node's, through which they speak; None if these are not known.
    unreadable: as of a `Condition`.
    """

    node: str
    clock_ahead_s: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    root_versions: Mapping[str, str] = field(default_factory=dict)
    round_trip_s: float | None = None
    n_lost: int | None = None
    n_sent: int = 0
    devices: tuple[NetworkDevice, NetworkDevice] | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)


def devices_between(
    root: Condition, node: Condition, host: str
) -> tuple[NetworkDevice, NetworkDevice] | None:
    """Return the root's and the node's device that are in one network. host: the node's address."""
    there = next((device for device in node.devices if host in device.addresses), None)
    here = there and _in_network_of(host, root.devices)
    return (here, there) if here and there else None


def _in_network_of(host: str, devices: Sequence[NetworkDevice]) -> NetworkDevice | None:
    address = ipaddress.ip_address(host)
    for device in devices:
        if any(address in ipaddress.ip_network(network) for network in device.networks):
            return device
    return None
