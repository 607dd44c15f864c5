"""Every check, on a recorded board: healthy, sick, and with what it reads unreadable."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest

from dure.doctor.checks import CHECKS
from dure.doctor.finding import NEEDS_ROOT, Finding, Severity, judged
from dure.hardware.examination.condition import Condition, Kernels
from dure.hardware.examination.machine_root import UnreadableError
from tests.support.machine_roots import (
    BUILD,
    COALESCE,
    CPU,
    DD,
    DD_SAID,
    DF,
    EEE,
    FEATURES,
    FOLDER,
    GRO,
    HOME,
    MEMINFO,
    MOUNTS,
    NET,
    NODE,
    NOTHING,
    PRESSURE,
    STAT,
    SWAPS,
    TCP,
    TIMEDATECTL,
    UNIT,
    WANTED,
    Content,
    Files,
    addresses,
    condition_of,
    program,
)

POLICY = f"{CPU}/cpufreq/policy0"
CGROUP = "/sys/fs/cgroup/system.slice/dure-node.service"
THROTTLED = "commands/vcgencmd get_throttled"
PUBLIC = addresses(addr_info=[{"local": "8.8.4.4", "prefixlen": 24}])
RANK = program(900, "python3", 0, "/opt/dure/venv/bin/python\0-m\0dure.engine.ranks.rank\0job")
NFT = """\
table inet filter {
\tchain input {
\t\ttype filter hook input priority filter; policy drop;
\t\tct state established,related accept
\t\tiifname "lo" accept
\t\ticmp type echo-request accept
\t\ttcp dport %s accept
%s\t}

\tchain forward {
\t\ttype filter hook forward priority filter; policy drop;
\t}
}
"""
UFW = """\
Status: active
Logging: on (low)
Default: deny (incoming), allow (outgoing), disabled (routed)
New profiles: skip

To                         Action      From
--                         ------      ----
22/tcp                     ALLOW IN    Anywhere
"""
IPTABLES = "-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n"
FIREWALLD = """\
public (active)
  target: default
  interfaces: eth0
  services: dhcpv6-client ssh
  ports: 22/tcp
  rich rules:
"""
TIMERS = json.dumps(
    [{"next": 1800000060000000, "last": 1800000030000000, "unit": "check.timer", "left": 1}]
)

N, W, S = Severity.NOTE, Severity.WARNING, Severity.SERIOUS
SICK: list[tuple[str, Severity, str, Files]] = [
    ("under-voltage", S, "0x50005", {THROTTLED: "throttled=0x50005\n"}),
    ("under-voltage", W, "0x50000", {THROTTLED: "throttled=0x50000\n"}),
    ("throttling", S, "0x80008", {THROTTLED: "throttled=0x80008\n"}),
    ("throttling", W, "0x20000", {THROTTLED: "throttled=0x20000\n"}),
    (
        "throttling",
        W,
        "17 times",
        {THROTTLED: None, f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "17\n"},
    ),
    ("temperature", S, "84 °C", {"/sys/class/thermal/thermal_zone0/temp": "83950\n"}),
    ("temperature", W, "75 °C", {"/sys/class/thermal/thermal_zone0/temp": "75000\n"}),
    ("governor", W, "ondemand", {f"{POLICY}/scaling_governor": "ondemand\n"}),
    ("governor", W, "1500 of 2400 MHz", {f"{POLICY}/scaling_max_freq": "1500000\n"}),
    (
        "governor",
        W,
        "balance_performance",
        {
            f"{POLICY}/scaling_governor": "powersave\n",
            f"{POLICY}/scaling_available_governors": "performance powersave\n",
            f"{POLICY}/energy_performance_preference": "balance_performance\n",
        },
    ),
    ("interrupts", N, "most for eth0", {"/proc/stat": STAT.format(soft=214000)}),
    ("memory", W, "319.8 MB of 8.4 GB", {"/proc/meminfo": MEMINFO.format(free=312345)}),
    (
        "memory",
        S,
        "12% of the last minute",
        {"/proc/pressure/memory": PRESSURE.format(avg60="12.30")},
    ),
    ("swap", N, "zram0", {"/proc/swaps": SWAPS.format(device="/dev/zram0", used=900000)}),
    ("swap", W, "mmcblk0p3", {"/proc/swaps": SWAPS.format(device="/dev/mmcblk0p3", used=900000)}),
    ("limits", W, "2.0 GB of 8.4 GB", {f"{CGROUP}/memory.max": "2000000000\n"}),
    ("limits", W, "1.5 of 4 cores", {f"{CGROUP}/cpu.max": "150000 100000\n"}),
    (
        "memory-groups",
        N,
        "controller",
        {"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n"},
    ),
    ("word-size", S, "32 bits, kernel aarch64", {"/bin/sh": b"\x7fELF\x01\x01\x01"}),
    (
        "threads",
        W,
        "8 threads for 4 cores",
        {f"{HOME}/.config/dure/config.toml": "[run]\nthreads = 8\n"},
    ),
    (
        "threads",
        N,
        "1 of 4 cores",
        program(800, "dure", 1, "/opt/dure/venv/bin/dure\0serve\0qwen3:4b\0--threads\0001"),
    ),
    ("agent", W, "no service", {UNIT: None, WANTED: None}),
    ("agent", W, UNIT, {WANTED: None}),
    ("agent", S, "port 7475", {f"{NODE}/node.json": '{"name": "pi-1", "port": 7475}'}),
    ("disk-room", S, "104.9 MB of 62.1 GB", {f"commands/df -Pk {HOME}": DF.format(free=102400)}),
    ("disk-room", W, "2.0 GB", {f"commands/df -Pk {HOME}": DF.format(free=2000000)}),
    ("card-speed", N, "29 MB/s", {f"commands/{DD}": DD_SAID.format(seconds="1.15")}),
    ("card-speed", W, "11 MB/s", {f"commands/{DD}": DD_SAID.format(seconds="3.05")}),
    ("card-wear", S, "3 errors", {"/sys/fs/ext4/mmcblk0p2/errors_count": "3\n"}),
    ("card-wear", S, "/ fell back", {"/proc/mounts": MOUNTS.format(options="ro")}),
    ("card-wear", W, "90 % of its life", {"/sys/block/mmcblk0/device/life_time": "0x02 0x09\n"}),
    ("card-wear", S, "100 % of its life", {"/sys/block/mmcblk0/device/pre_eol_info": "0x03\n"}),
    (
        "wireless",
        W,
        "wlan0",
        {
            "commands/ip -json address": addresses(ifname="wlan0"),
            "/sys/class/net/wlan0/phy80211/name": "phy0\n",
        },
    ),
    ("link-speed", W, "100 Mbit/s", {f"{NET}/speed": "100\n"}),
    ("link-speed", S, "10 Mbit/s", {f"{NET}/speed": "10\n"}),
    ("duplex", S, "half duplex", {f"{NET}/duplex": "half\n"}),
    ("link-errors", W, "4031 errors", {f"{NET}/statistics/rx_errors": "4031\n"}),
    ("link-errors", S, "900000 errors", {f"{NET}/statistics/rx_errors": "900000\n"}),
    ("link-errors", W, "lost 7 times", {f"{NET}/carrier_down_count": "7\n"}),
    ("link-errors", N, "9000000 dropped", {f"{NET}/statistics/rx_dropped": "9000000\n"}),
    ("mtu", N, "1400", {"commands/ip -json address": addresses(mtu=1400)}),
    ("mtu", N, "9000", {"commands/ip -json address": addresses(mtu=9000)}),
    (
        "sleeping-link",
        W,
        "EEE enabled",
        {"commands/ethtool --show-eee eth0": EEE.format(status="enabled - active")},
    ),
    ("gathered-packets", N, "GRO on", {"commands/ethtool -k eth0": GRO.format(gro="on")}),
    ("coalescing", N, "57", {"commands/ethtool -c eth0": COALESCE.format(us=57, adaptive="off")}),
    (
        "coalescing",
        N,
        "adaptive",
        {"commands/ethtool -c eth0": COALESCE.format(us=8, adaptive="on")},
    ),
    ("tcp-buffers", W, "212992", {"/proc/sys/net/ipv4/tcp_rmem": "4096 87380 212992\n"}),
    ("firewall", S, "port 7474 (nftables)", {"commands/nft list ruleset": NFT % ("22", "")}),
    (
        "firewall",
        S,
        "port 7474 is open, 32768 to 60999 are not",
        {"commands/nft list ruleset": NFT % ("{ 22, 7474 }", "")},
    ),
    ("firewall", S, "port 7474 (ufw)", {"commands/ufw status verbose": UFW}),
    ("firewall", S, "port 7474 (iptables)", {"commands/iptables -S INPUT": IPTABLES}),
    (
        "firewall",
        S,
        "port 7474 (firewalld)",
        {
            "commands/firewall-cmd --list-all": FIREWALLD,
            "commands/sh -c firewall-cmd --state 2>&1 || true": "running\n",
        },
    ),
    ("mdns", W, "port 5353", {"commands/nft list ruleset": NFT % ("22", "")}),
    ("mdns", W, "eth0", {"commands/ip -json address": addresses(flags=["UP", "LOWER_UP"])}),
    ("mpi-ports", W, "8.8.4.4", {"commands/ip -json address": PUBLIC}),
    (
        "mpi-ports",
        S,
        "ranks listen on 41611",
        {
            "commands/ip -json address": PUBLIC,
            "/proc/net/tcp": TCP.format(rank="00000000"),
            **RANK,
            "/proc/900/fd/5": Path("socket:[9002]"),
        },
    ),
    ("time", W, "NTP=no", {"commands/timedatectl show": TIMEDATECTL.format(ntp="no", done="no")}),
    ("time", W, "NTP=yes", {"commands/timedatectl show": TIMEDATECTL.format(ntp="yes", done="no")}),
    ("monitoring", W, "netdata takes 12%", program(812, "netdata", 120_000)),
    ("monitoring", N, "node_exporter takes 2%", program(812, "node_exporter", 20_000)),
    ("monitoring", W, "backup takes 40%", program(812, "backup", 400_000)),
    (
        "timers",
        N,
        "check.timer every 30 s",
        {"commands/systemctl list-timers --output=json": TIMERS},
    ),
]
NO_DEVICES: dict[str, Content] = {"commands/ip -json address": "no json"}
FAILED = "exit 1\nError: Operation not permitted\n"
UNREADABLE: dict[str, dict[str, Content]] = {
    "under-voltage": {THROTTLED: "exit 255\nVCHI initialization failed\n"},
    "throttling": {THROTTLED: "VCHI initialization failed\n"},
    "temperature": {"/sys/class/thermal/thermal_zone0/temp": "warm\n"},
    "governor": {f"{POLICY}/scaling_governor": FOLDER},
    "interrupts": {"/proc/stat": "cpu0 1 2\n"},
    "memory": {"/proc/meminfo": "MemTotal: 12 kB\n"},
    "swap": {"/proc/swaps": FOLDER},
    "limits": {"/proc/self/cgroup": "nonsense\n"},
    "memory-groups": {"/sys/fs/cgroup/cgroup.controllers": FOLDER},
    "word-size": {"/bin/sh": FOLDER},
    "dot-products": {"/proc/cpuinfo": FOLDER},
    "threads": {f"{HOME}/.config/dure/config.toml": "threads = = 4"},
    "agent": {f"{NODE}/node.json": "{"},
    "disk-room": {f"commands/df -Pk {HOME}": "Filesystem\n"},
    "card-speed": {
        f"commands/{DD}": "dd: failed to open '/dev/mmcblk0': Permission denied\n",
    },
    "card-wear": {"/sys/fs/ext4/mmcblk0p2/errors_count": FOLDER},
    "wireless": NO_DEVICES,
    "link-speed": NO_DEVICES,
    "duplex": NO_DEVICES,
    "link-errors": NO_DEVICES,
    "mtu": NO_DEVICES,
    "sleeping-link": {"commands/ethtool --show-eee eth0": FAILED},
    "gathered-packets": {"commands/ethtool -k eth0": FAILED},
    "coalescing": {"commands/ethtool -c eth0": FAILED},
    "tcp-buffers": {"/proc/sys/net/ipv4/tcp_rmem": "4096 87380 much\n"},
    "firewall": {"commands/nft list ruleset": FAILED},
    "mdns": {"commands/iptables -S INPUT": FAILED},
    "mpi-ports": {"/proc/net/tcp": FOLDER},
    "time": {"commands/timedatectl show": "exit 1\nFailed to connect to bus: Host is down\n"},
    "monitoring": {"/proc/uptime": FOLDER},
    "timers": {"commands/systemctl list-timers --output=json": "[{"},
}


def found(directory: Path, changes: Files = NOTHING) -> dict[str, list[Finding]]:
    by_check: dict[str, list[Finding]] = {}
    for one in judged(CHECKS, condition_of(directory, changes)):
        by_check.setdefault(one.check, []).append(one)
    return by_check


def test_a_healthy_board_is_found_healthy_by_every_check(tmp_path: Path) -> None:
    """Each check has something to say of a Raspberry Pi that is a node, and nothing is wrong with it."""
    by_check = found(tmp_path)
    assert set(by_check) == {one.name for one in CHECKS}
    sick = [one for some in by_check.values() for one in some if one.severity != Severity.HEALTHY]
    assert sick == []


@pytest.mark.parametrize(("check", "severity", "evidence", "changes"), SICK)
def test_a_sick_board_is_found_sick(
    tmp_path: Path, check: str, severity: Severity, evidence: str, changes: Files
) -> None:
    """The check names the evidence and a cure, and says that it matters."""
    findings = [one for one in found(tmp_path, changes)[check] if one.severity != Severity.HEALTHY]
    assert [one.severity for one in findings] == [severity]
    assert evidence in findings[0].evidence
    assert findings[0].cure
    assert findings[0].why


@pytest.mark.parametrize("check", UNREADABLE)
def test_what_cannot_be_read_is_called_unreadable_with_the_reason(
    tmp_path: Path, check: str
) -> None:
    """It is neither healthy nor sick: nobody knows."""
    [finding] = found(tmp_path, UNREADABLE[check])[check]
    assert finding.severity == Severity.UNREADABLE
    assert finding.evidence


def test_every_check_was_made_sick_and_unreadable_here() -> None:
    """A check that is added needs its cases above. What was built is no file: it has tests of its own."""
    names = {one.name for one in CHECKS}
    assert {name for name, *_ in SICK} | {"dot-products", "kernels"} == names
    assert set(UNREADABLE) | {"kernels"} == names


@pytest.mark.parametrize(
    ("build", "features", "severity"),
    [
        (BUILD, FEATURES, Severity.HEALTHY),
        (BUILD.replace("DOTPROD = 1 | ", ""), FEATURES, S),
        (BUILD.replace("DOTPROD = 1 | ", ""), FEATURES.replace("asimddp", ""), Severity.HEALTHY),
        (BUILD, f"{FEATURES} i8mm", N),
    ],
)
def test_a_build_is_compared_with_what_the_processor_has(
    tmp_path: Path, build: str, features: str, severity: Severity
) -> None:
    """A Raspberry Pi 4 has no dot products, so its build need not have them."""
    changes: Files = {"/proc/cpuinfo": f"Features\t: {features}\n"}
    findings = judged(CHECKS, condition_of(tmp_path, changes, lambda: build))
    assert [one.severity for one in findings if one.check == "dot-products"] == [severity]


def test_a_llama_cpp_that_does_not_start_is_unreadable(tmp_path: Path) -> None:
    """Its own words are the evidence."""

    def ask() -> str:
        raise UnreadableError("llama.cpp does not start (Illegal instruction)")

    findings = judged(CHECKS, condition_of(tmp_path, {}, ask))
    [build] = [one for one in findings if one.check == "dot-products"]
    assert (build.severity, build.evidence) == (
        Severity.UNREADABLE,
        "llama.cpp does not start (Illegal instruction)",
    )


@pytest.mark.parametrize(
    ("check", "cure"),
    [
        ("gathered-packets", "`sudo apt install ethtool`, or another package that has it"),
        ("card-speed", NEEDS_ROOT),
    ],
)
def test_it_is_said_how_to_read_what_cannot_be_read(tmp_path: Path, check: str, cure: str) -> None:
    """A program is missing, or root's rights are."""
    ethtool = {f"commands/ethtool {what} eth0": None for what in ("-k", "-c", "--show-eee")}
    [finding] = found(tmp_path, {**ethtool, **UNREADABLE["card-speed"]})[check]
    assert finding.cure == cure


@pytest.mark.parametrize("rule", ["\t\tip saddr 192.168.1.0/24 accept\n", "\t\taccept\n"])
def test_a_firewall_that_lets_the_own_network_in_is_healthy(tmp_path: Path, rule: str) -> None:
    """Ranks use ports that change, so a rule for the whole network is what they need."""
    [finding] = found(tmp_path, {"commands/nft list ruleset": NFT % ("22", rule)})["firewall"]
    assert finding.severity == Severity.HEALTHY


def test_the_firewall_that_the_docs_describe_is_healthy(tmp_path: Path) -> None:
    """It lets in the cluster's machines alone, and ranks on all ports that the system may choose."""
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    begin, end = "    table inet dure {\n", "\n    }\n"
    ruleset = dedent(begin + page.partition(begin)[2].partition(end)[0] + end)
    by_check = found(tmp_path, {"commands/nft list ruleset": ruleset.replace("    ", "\t")})
    assert "nftables" in by_check["firewall"][0].evidence
    for check in ("firewall", "mdns", "mpi-ports"):
        assert [one.severity for one in by_check[check]] == [Severity.HEALTHY], by_check[check]


def test_a_device_that_cannot_sleep_or_coalesce_is_no_finding(tmp_path: Path) -> None:
    """Drivers say that they do not support it; that is nothing to worry about."""
    refused = "exit 95\nnetlink error: Operation not supported\n"
    asked = {f"commands/ethtool {what} eth0": refused for what in ("-c", "--show-eee")}
    by_check = found(tmp_path, asked)
    assert "coalescing" not in by_check
    assert "sleeping-link" not in by_check


@pytest.mark.parametrize(("used", "severity"), [("x86-64-v4", Severity.HEALTHY), ("x86-64-v3", W)])
def test_slower_kernels_than_the_processor_runs_are_a_warning(
    used: str, severity: Severity
) -> None:
    findings = judged(CHECKS, Condition(kernels=Kernels(used, "x86-64-v4")))
    [finding] = [one for one in findings if one.check == "kernels"]
    assert finding.severity == severity
    assert used in finding.evidence


def test_a_desktop_without_any_of_it_gets_fewer_findings(tmp_path: Path) -> None:
    """No firmware, no card, no cluster: these checks say nothing instead of guessing."""
    gone: Files = {
        THROTTLED: None,
        "/sys/block/mmcblk0": None,
        f"{NODE}/node.json": None,
        f"{HOME}/.config/dure/config.toml": None,
        "/sys/class/thermal/thermal_zone0/type": "acpitz\n",
    }
    by_check = found(tmp_path, gone)
    absent = {
        *("under-voltage", "throttling", "temperature", "threads", "agent"),
        *("card-speed", "card-wear"),
    }
    assert not absent & set(by_check)


def test_a_condition_crosses_the_network_whole(tmp_path: Path) -> None:
    """A node sends its condition to its root as JSON."""
    condition = condition_of(tmp_path, {**RANK, "commands/nft list ruleset": NFT % ("22", "")})
    sent = msgspec.json.encode(condition)
    assert msgspec.json.decode(sent, type=Condition) == condition
