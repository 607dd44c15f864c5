"""The network device that a rank uses, and how MPI is told to use no other.

Refuses to know where a machine's links are read (`dure.hardware.probe`).
"""

from __future__ import annotations

from dure.errors import ClusterError, UsageError
from dure.hardware.health import Link

__all__ = ["device_of", "named_device", "network_environment"]


def device_of(address: str, links: tuple[Link, ...]) -> str:
    """Return the network device that has an address. Raises ClusterError if none has it."""
    for link in links:
        if address in link.addresses:
            return link.name
    raise ClusterError(f"no network device of this machine has the address {address}")


def named_device(name: str, links: tuple[Link, ...]) -> str:
    """Return the network device that the user names. Raises UsageError if it is not up."""
    if name not in (names := [link.name for link in links]):
        raise UsageError(
            f"--interface {name}: this machine has no such network device that is up, only "
            f"{', '.join(names)}"
        )
    return name


def network_environment(device: str) -> dict[str, str]:
    """Return the environment in which MPI uses one network device, and nothing else.

    It looks up its own machine's name; a name server that is silent is not waited for.
    """
    return {
        "MPIR_CVAR_NOLOCAL": "1",
        "RES_OPTIONS": "timeout:1 attempts:1",
        "UCX_LOG_LEVEL": "fatal",
        "UCX_NET_DEVICES": device,
        "UCX_TLS": "tcp,self",
    }
