"""Checks of what comes in: what should, and what should not."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from dure.doctor.finding import SettingValue, Verdict, check, healthy, serious, warning
from dure.hardware.examination.condition import Condition, OpenPort

__all__ = ["CHECKS"]

_MDNS = 5353
_RANK_PORTS = (32768, 60999)  # from which Linux chooses
_RANK = "dure.engine.ranks.rank"


@check(
    "firewall",
    "firewall",
    "A firewall that drops what comes to dure's ports makes a machine look as if it were off. Ranks use "
    "ports that the system chooses at every start.",
    "firewall",
    "devices",
)
def firewall(condition: Condition) -> Iterator[Verdict]:
    """Judge whether a firewall lets other machines reach dure."""
    if not condition.ports:
        return
    rules, ports = condition.firewall, ", ".join(map(str, condition.ports))
    shut = [str(port) for port in condition.ports if rules and not rules.admits(port)]
    if rules is None or (not shut and rules.admits_range(*_RANK_PORTS)):
        evidence = f"{rules.program} lets them in" if rules else "no firewall"
        yield healthy("other machines can reach dure", evidence)
        return
    if shut:
        what, evidence = "a firewall keeps other machines from dure", f"port {', '.join(shut)}"
    else:
        what = "a firewall keeps ranks from each other"
        evidence = f"port {ports} is open, {_RANK_PORTS[0]} to {_RANK_PORTS[1]} are not"
    network = next(iter(_own_networks(condition)), "")
    cure = f"`sudo ufw allow from {network or 'YOUR NETWORK'}`, or the like of another firewall"
    fix = [SettingValue(f"ufw:{network}", "allow")] if rules.program == "ufw" and network else []
    yield serious(what, f"{evidence} ({rules.program})", cure, *fix)


def _own_networks(condition: Condition) -> Iterator[str]:
    """Yield the private networks that the machine is in."""
    for device in condition.devices:
        for network in device.networks:
            found = ipaddress.ip_network(network)
            if found.version == 4 and found.is_private:
                yield network


@check(
    "mdns",
    "mDNS",
    "Machines find each other by mDNS: without it every `dure join` needs --root, and a node whose address "
    "has changed is lost.",
    "firewall",
    "devices",
)
def mdns(condition: Condition) -> Iterator[Verdict]:
    """Judge whether machines can find each other."""
    if not condition.devices:
        return
    deaf = [device.name for device in condition.devices if not device.can_multicast]
    rules = condition.firewall
    if rules is not None and not rules.admits(_MDNS, "udp"):
        cure = (
            f"let UDP port {_MDNS} in, as with `sudo firewall-cmd --permanent --add-service=mdns`"
        )
        yield warning("a firewall blocks mDNS", f"{rules.program}, port {_MDNS} (UDP)", cure)
    elif deaf:
        cure = f"`sudo ip link set {deaf[0]} multicast on`"
        yield warning("a network device takes no multicast", ", ".join(deaf), cure)
    else:
        yield healthy("machines can find each other", f"port {_MDNS} (UDP)")


@check(
    "mpi-ports",
    "open ports",
    "Ranks speak MPI to each other without a password or encryption, on ports that change with every "
    "start: whoever reaches them can read along, or disturb.",
    "devices",
    "firewall",
    "open_ports",
)
def mpi_ports(condition: Condition) -> Iterator[Verdict]:
    """Judge whether the Internet reaches the ports of ranks."""
    if not condition.devices:
        return
    public = [a for device in condition.devices for a in device.addresses if _is_public(a)]
    rules = condition.firewall
    closed = rules is not None and rules.is_closed and not rules.opens_more
    ports = [str(one.port) for one in condition.open_ports if _is_reachable(one)]
    if not public or closed:
        why = "a firewall is closed" if public else "this machine has no public address"
        yield healthy("the Internet does not reach ranks", why)
        return
    listening = f"; ranks listen on {', '.join(ports)}" if ports else ""
    evidence = f"public address {public[0]}, and no firewall that is closed{listening}"
    cure = (
        "let a firewall drop what does not come from your own network, as with `sudo ufw default deny "
        "incoming`, then `sudo ufw allow from 192.168.0.0/16` with your network's range"
    )
    judge = serious if ports else warning
    yield judge("the Internet can reach ranks on this machine", evidence, cure)


def _is_public(address: str) -> bool:
    """Return whether an address is of the whole Internet; ranks speak IPv4."""
    found = ipaddress.ip_address(address)
    return found.version == 4 and found.is_global


def _is_reachable(port: OpenPort) -> bool:
    found = ipaddress.ip_address(port.address)
    return _RANK in port.program and (found.is_unspecified or _is_public(port.address))


CHECKS = (firewall, mdns, mpi_ports)
