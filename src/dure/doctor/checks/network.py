"""Checks of the network devices: how quickly, and how surely, they carry the parts of a token."""

from __future__ import annotations

from collections.abc import Iterator

from dure.doctor.finding import SettingValue, Verdict, check, healthy, note, serious, warning
from dure.hardware.examination.condition import Coalescing, Condition, NetworkDevice

__all__ = ["CHECKS"]

_ENOUGH_MBIT, _SLOWEST_MBIT = 1000, 100
_USUAL_MTU = 1500
_ENOUGH_PACKETS = 10_000
_SOME_ERRORS, _MANY_ERRORS, _MANY_DROPS = 1e-5, 1e-3, 1e-2
_OFTEN_DOWN = 3
_LONG_WAIT_US = 20
_LEAST_BUFFER = 1 << 20
_BUFFERS = {
    "rmem": "4096 131072 6291456",
    "wmem": "4096 16384 4194304",
}  # the kernel's own defaults
_CABLE = "use another cable (Cat 5e or better) and another port of the switch"


def _wired(condition: Condition) -> list[NetworkDevice]:
    return [device for device in condition.devices if not device.is_wireless]


@check(
    "wireless",
    "cable",
    "Wi-Fi answers in milliseconds, and not always; a cable in a tenth of one. Every token waits for it "
    "twice per layer.",
    "devices",
)
def wireless(condition: Condition) -> Iterator[Verdict]:
    """Judge whether the machine is on a cable."""
    names = ", ".join(device.name for device in condition.devices)
    if not names:
        return
    if _wired(condition):
        yield healthy("the machine is on a cable", names)
    else:
        yield warning("the machine is on Wi-Fi alone", names, "connect it to the switch by a cable")


@check(
    "link-speed",
    "link speed",
    "At 100 Mbit/s the parts of a token travel ten times as long as at 1 Gbit/s.",
    "devices",
)
def link_speed(condition: Condition) -> Iterator[Verdict]:
    """Judge whether links are of 1 Gbit/s or more."""
    for device in _wired(condition):
        evidence = f"{device.name} at {device.speed_mbit} Mbit/s"
        if device.speed_mbit >= _ENOUGH_MBIT:
            yield healthy("the link is quick enough", evidence)
        elif device.speed_mbit >= _SLOWEST_MBIT:
            yield warning("the link is slow", evidence, _CABLE)
        elif device.speed_mbit:
            yield serious("the link is very slow", evidence, _CABLE)


@check(
    "duplex",
    "duplex",
    "On a half-duplex link only one side may send at a time, and both often try at once.",
    "devices",
)
def duplex(condition: Condition) -> Iterator[Verdict]:
    """Judge whether links carry both directions at once."""
    for device in _wired(condition):
        if device.is_full_duplex:
            yield healthy("both sides send at once", f"{device.name} is full duplex")
        elif device.is_full_duplex is False:
            cure = (
                f"let both sides negotiate (`sudo ethtool -s {device.name} autoneg on`); {_CABLE}"
            )
            yield serious("only one side sends at a time", f"{device.name} is half duplex", cure)


@check(
    "link-errors",
    "link errors",
    "A damaged packet is sent again, a fifth of a second later: all nodes wait for it.",
    "devices",
)
def link_errors(condition: Condition) -> Iterator[Verdict]:
    """Judge whether packets arrive whole, and the link stays up."""
    return (_errors(device) for device in condition.devices)


def _errors(device: NetworkDevice) -> Verdict:
    of_all = max(device.n_packets, _ENOUGH_PACKETS)
    evidence = (
        f"{device.name}: {device.n_errors} errors, {device.n_dropped} dropped of {device.n_packets} "
        f"packets; the link was lost {device.n_down} times"
    )
    if device.n_errors > _MANY_ERRORS * of_all:
        return serious("many packets are damaged", evidence, _CABLE)
    if device.n_errors > _SOME_ERRORS * of_all:
        return warning("some packets are damaged", evidence, _CABLE)
    if device.n_down >= _OFTEN_DOWN:
        return warning("the link was lost several times since the start", evidence, _CABLE)
    if device.n_dropped > _MANY_DROPS * of_all:
        cure = "look at what else this machine does, and at `ethtool -S` of the device"
        return note("some packets were dropped", evidence, cure)
    return healthy("packets arrive", evidence)


@check(
    "mtu",
    "packet size",
    "Smaller packets cost more of them, and two machines with unlike sizes lose the large ones.",
    "devices",
)
def mtu(condition: Condition) -> Iterator[Verdict]:
    """Judge whether packets have the usual size."""
    for device in _wired(condition):
        evidence = f"{device.name} has an MTU of {device.mtu}"
        if device.mtu == _USUAL_MTU:
            yield healthy("packets have the usual size", evidence)
        elif device.mtu > _USUAL_MTU:
            cure = f"if not: `sudo ip link set {device.name} mtu {_USUAL_MTU}`"
            yield note(
                "packets may be larger than usual; every machine must allow it", evidence, cure
            )
        else:
            fix = SettingValue(f"file:/sys/class/net/{device.name}/mtu", str(_USUAL_MTU))
            cure = f"on a network of your own, `sudo ip link set {device.name} mtu {_USUAL_MTU}`"
            yield note("packets are smaller than usual", evidence, cure, fix)


@check(
    "sleeping-link",
    "sleeping link",
    "Energy-efficient Ethernet sleeps between packets, and wakes up again for every part of a token.",
    "devices",
    "sleeping_links",
)
def sleeping_link(condition: Condition) -> Iterator[Verdict]:
    """Judge whether links sleep between packets (EEE)."""
    for name, sleeps in condition.sleeping_links.items():
        if sleeps:
            cure, fix = (
                f"`sudo ethtool --set-eee {name} eee off`",
                SettingValue(f"eee:{name}", "off"),
            )
            yield warning("the link sleeps between packets", f"{name}: EEE enabled", cure, fix)
        else:
            yield healthy("the link is always awake", f"{name}: EEE disabled")


@check(
    "gathered-packets",
    "gathering",
    "The kernel waits for more packets before it delivers one (GRO). Published on Raspberry Pi 5: 2 % more "
    "tokens per second without.",
    "devices",
    "gathers_packets",
)
def gathered_packets(condition: Condition) -> Iterator[Verdict]:
    """Judge whether packets are gathered before they are delivered (GRO)."""
    for name, gathers in condition.gathers_packets.items():
        if gathers:
            cure, fix = f"`sudo ethtool -K {name} gro off`", SettingValue(f"gro:{name}", "off")
            yield note(
                "packets are gathered before they are delivered", f"{name}: GRO on", cure, fix
            )
        else:
            yield healthy("packets are delivered at once", f"{name}: GRO off")


@check(
    "coalescing",
    "coalescing",
    "The device waits for more packets before it reports one; every part of a token waits with it.",
    "devices",
    "coalescing",
)
def coalescing(condition: Condition) -> Iterator[Verdict]:
    """Judge whether devices report packets at once."""
    return (_reported(name, one) for name, one in condition.coalescing.items())


def _reported(name: str, found: Coalescing) -> Verdict:
    adaptive = ", adaptive" if found.is_adaptive else ""
    evidence = f"{name}: rx-usecs {found.receive_us}{adaptive}"
    if found.receive_us <= _LONG_WAIT_US and not found.is_adaptive:
        return healthy("packets are reported at once", evidence)
    words = "adaptive-rx off rx-usecs 0" if found.is_adaptive else "rx-usecs 0"
    fix = SettingValue(f"coalescing:{name}", words)
    return note("packets are reported late", evidence, f"`sudo ethtool -C {name} {words}`", fix)


@check(
    "tcp-buffers",
    "TCP buffers",
    "A connection sends no more than the other side may buffer: small buffers halve the speed of prompts.",
    "tcp",
)
def tcp_buffers(condition: Condition) -> Iterator[Verdict]:
    """Judge whether a connection may buffer enough."""
    if (most := condition.tcp) is None:
        return
    evidence = f"at most {most.receive_bytes} bytes received, {most.send_bytes} sent"
    sizes = {"rmem": most.receive_bytes, "wmem": most.send_bytes}
    small = [name for name, size in sizes.items() if size < _LEAST_BUFFER]
    if not small:
        yield healthy("connections may buffer enough", evidence)
        return
    fix = [SettingValue(f"file:/proc/sys/net/ipv4/tcp_{name}", _BUFFERS[name]) for name in small]
    cure = "; ".join(f"`sudo sysctl -w net.ipv4.tcp_{name}='{_BUFFERS[name]}'`" for name in small)
    yield warning("connections may buffer little", evidence, cure, *fix)


CHECKS = (
    *(wireless, link_speed, duplex, link_errors, mtu, sleeping_link, gathered_packets),
    *(coalescing, tcp_buffers),
)
