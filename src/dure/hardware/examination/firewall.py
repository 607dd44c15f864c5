"""Reads what a machine's firewall lets in: of ufw, firewalld, nftables or iptables, the first that runs.

A rule that opens every port to somebody counts as open: to whom is not judged here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from dure.hardware.examination.condition import FirewallRules, PortRange
from dure.hardware.examination.machine_root import MachineRoot

__all__ = ["firewall"]

_MDNS = (5353, 5353)


def firewall(root: MachineRoot) -> FirewallRules | None:
    """Return the rules of the firewall that runs; None if none does. Raises UnreadableError."""
    readers = {"ufw": _ufw, "firewall-cmd": _firewalld, "nft": _nft, "iptables": _iptables}
    for program, read in readers.items():
        if root.knows(program) and (rules := read(root)) is not None:
            return rules
    return None


def _ufw(root: MachineRoot) -> FirewallRules | None:
    said = root.output("ufw", "status", "verbose")
    if not re.search(r"^Status: active", said, re.MULTILINE):
        return None
    closed = re.search(r"^Default: (deny|reject) \(incoming\)", said, re.MULTILINE) is not None
    rules = re.findall(
        r"^(\S+)\s+(?:\(v6\)\s+)?(?:ALLOW|LIMIT)(?: IN)?\s+(.*)$", said, re.MULTILINE
    )
    ports = [to for to, _ in rules if re.match(r"\d", to)]
    tcp, udp = (
        _ranges(p.partition("/")[0] for p in ports if _is_of(p, kind)) for kind in ("tcp", "udp")
    )
    opens_more = any(to == "Anywhere" for to, _ in rules)
    return FirewallRules("ufw", closed, tcp, (*udp, _MDNS), opens_more)  # before.rules let mDNS in


def _is_of(port: str, kind: str) -> bool:
    """Return whether a rule of ufw, as 7474/tcp or 7474, is for a protocol."""
    return port.partition("/")[2] in {"", kind}


def _firewalld(root: MachineRoot) -> FirewallRules | None:
    if root.output("sh", "-c", "firewall-cmd --state 2>&1 || true").strip() != "running":
        return None
    said = root.output("firewall-cmd", "--list-all")
    fields = dict(re.findall(r"^\s+([\w-]+): *(.*)$", said, re.MULTILINE))
    target = fields.get("target", "default")
    words = fields.get("ports", "").split()
    tcp, udp = (
        _ranges(word.partition("/")[0] for word in words if word.endswith(kind))
        for kind in ("tcp", "udp")
    )
    mdns = (_MDNS,) if "mdns" in fields.get("services", "").split() else ()
    return FirewallRules("firewalld", target != "ACCEPT", tcp, (*udp, *mdns))


def _nft(root: MachineRoot) -> FirewallRules | None:
    said = root.output("nft", "list", "ruleset")
    chains = re.findall(r"chain [\w-]+ \{\s*type filter hook input .*?\n\t\}", said, re.DOTALL)
    closed = [chain for chain in chains if re.search(r"policy drop;", chain)]
    if not closed:
        return FirewallRules("nftables", False) if chains else None
    rules = [line.strip() for line in said.splitlines() if line.strip().endswith("accept")]
    tcp, udp = (_ranges(_ports_of(rules, kind)) for kind in ("tcp", "udp"))
    return FirewallRules("nftables", True, tcp, udp, any(map(_opens_all, rules)))


def _ports_of(rules: Iterable[str], kind: str) -> Iterator[str]:
    for rule in rules:
        for found in re.findall(rf"\b{kind} dport (\{{[^}}]*\}}|\S+)", rule):
            yield from re.split(r"[\s,{}]+", found)


def _opens_all(rule: str) -> bool:
    """Return whether a rule of nftables lets somebody in, whatever the port."""
    return not re.search(
        r'\bdport\b|\bct state\b|\bicmp|"?lo"?\b|\bl4proto\b|\bigmp\b|protocol', rule
    )


def _iptables(root: MachineRoot) -> FirewallRules | None:
    lines = root.output("iptables", "-S", "INPUT").splitlines()
    if not any(line.startswith("-P INPUT") for line in lines):
        return None
    closed = "-P INPUT DROP" in lines
    rules = [line for line in lines if line.startswith("-A") and line.endswith("-j ACCEPT")]
    tcp, udp = (
        _ranges(
            port
            for rule in rules
            if f"-p {kind}" in rule
            for ports in re.findall(r"--dports? (\S+)", rule)
            for port in ports.split(",")
        )
        for kind in ("tcp", "udp")
    )
    narrow = re.compile(r"--dport|--ctstate|--state|-i lo\b|-p icmp")
    return FirewallRules("iptables", closed, tcp, udp, any(not narrow.search(r) for r in rules))


def _ranges(texts: Iterable[str]) -> tuple[PortRange, ...]:
    """Return ranges of ports written as 7474, 7000-8000 or 7000:8000; names of services are left out."""
    found = [re.fullmatch(r"(\d+)(?:[-:](\d+))?", text.strip()) for text in texts]
    return tuple((int(one[1]), int(one[2] or one[1])) for one in found if one)
