"""Checks of a node and its root together."""

from __future__ import annotations

from collections.abc import Iterator

from dure.doctor.finding import Verdict, check, healthy, serious, warning
from dure.doctor.node_link import NodeLink

__all__ = ["LINK_CHECKS"]

_SKEWED_S, _FAR_OFF_S = 1.0, 60.0
_SLOW_S, _VERY_SLOW_S = 1e-3, 5e-3
_MANY_LOST = 0.02
_SET = "`sudo timedatectl set-ntp true` on both"
_CABLE = "look at the cables and the switch between them, and whether one of them is on Wi-Fi"


@check(
    "clock-skew",
    "clocks",
    "Machines whose clocks are a day apart refuse each other's certificates, and logs with unlike times "
    "cannot be compared.",
    "clock",
)
def clock_skew(link: NodeLink) -> Iterator[Verdict]:
    """Judge whether the clocks of a node and its root agree."""
    if (ahead := link.clock_ahead_s) is None:
        return
    side = "ahead of" if ahead > 0 else "behind"
    evidence = f"{link.node}'s is {abs(ahead):.1f} s {side} the root's"
    if abs(ahead) >= _FAR_OFF_S:
        yield serious("the clocks are far apart", evidence, _SET)
    elif abs(ahead) >= _SKEWED_S:
        yield warning("the clocks differ", evidence, _SET)
    else:
        yield healthy("the clocks agree", evidence)


@check(
    "versions",
    "versions",
    "Ranks of unlike versions would compute different things: dure refuses to start a model then.",
    "versions",
)
def versions(link: NodeLink) -> Iterator[Verdict]:
    """Judge whether a node has its root's versions."""
    unlike = [
        f"{name} {link.versions.get(name, 'none')} on {link.node}, {version} on the root"
        for name, version in link.root_versions.items()
        if link.versions.get(name) != version
    ]
    if unlike:
        cure = "install the same dure on both, as with `dure node add`"
        yield serious("the versions differ", "; ".join(unlike), cure)
    else:
        yield healthy("the versions are the same", ", ".join(link.root_versions))


@check(
    "round-trip",
    "round trip",
    "Every token waits for the network twice per layer: at 1 ms that is 72 ms for 36 layers.",
    "round_trip",
)
def round_trip(link: NodeLink) -> Iterator[Verdict]:
    """Judge whether a node answers within 1 ms."""
    if (seconds := link.round_trip_s) is None:
        return
    evidence = f"{seconds * 1e3:.2f} ms to {link.node}"
    if seconds > _VERY_SLOW_S:
        yield serious("the round trip is very long", evidence, _CABLE)
    elif seconds > _SLOW_S:
        yield warning("the round trip is long", evidence, _CABLE)
    else:
        yield healthy("the round trip is short", evidence)


@check(
    "loss",
    "lost packets",
    "What is lost is sent again a fifth of a second later, and all nodes wait for it.",
    "loss",
)
def loss(link: NodeLink) -> Iterator[Verdict]:
    """Judge whether packets between a node and its root get lost."""
    if (lost := link.n_lost) is None:
        return
    evidence = f"{lost} lost of {link.n_sent} handshakes with {link.node}"
    if lost > _MANY_LOST * link.n_sent:
        yield serious("many packets get lost", evidence, _CABLE)
    elif lost:
        yield warning("packets get lost", evidence, _CABLE)
    else:
        yield healthy("no packet was lost", evidence)


@check(
    "mtu-mismatch",
    "packet sizes",
    "A packet that the other side does not take is lost without a word: small ones pass, and large ones "
    "hang.",
    "devices",
)
def mtu_mismatch(link: NodeLink) -> Iterator[Verdict]:
    """Judge whether a node and its root take packets of one size."""
    if link.devices is None:
        return
    here, there = link.devices
    evidence = f"{there.name} of {link.node}: {there.mtu}, {here.name} of the root: {here.mtu}"
    if here.mtu == there.mtu:
        yield healthy("both take packets of one size", evidence)
        return
    smaller = min(here.mtu, there.mtu)
    name = here.name if here.mtu > smaller else there.name
    whose = "the root" if here.mtu > smaller else link.node
    cure = f"`sudo ip link set {name} mtu {smaller}` on {whose}, or raise the other"
    yield warning("they take packets of unlike sizes", evidence, cure)


LINK_CHECKS = (clock_skew, versions, round_trip, loss, mtu_mismatch)
