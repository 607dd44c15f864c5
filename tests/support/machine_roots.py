"""A recorded machine: a Raspberry Pi 5 that is a node and lacks nothing, in files as such boards have.

A test changes some: `None` deletes a file, `FOLDER` makes it one that cannot be read, a `Path` a link.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dure.hardware.examination.condition import Condition, Kernels
from dure.hardware.examination.examine import Installation, examine

FOLDER, NOTHING = object(), MappingProxyType[str, object]({})
Content = str | bytes | Path | object | None
Files = Mapping[str, Content]

HOME = "/home/pi"
NODE = f"{HOME}/.local/share/dure/node"
CPU = "/sys/devices/system/cpu"
NET = "/sys/class/net/eth0"
UNIT = "/etc/systemd/system/dure-node.service"
WANTED = "/etc/systemd/system/multi-user.target.wants/dure-node.service"
DD = "sh -c dd if=/dev/mmcblk0 of=/dev/null bs=1M count=32 iflag=direct 2>&1"
BUILD = "CPU : NEON = 1 | ARM_FMA = 1 | FP16_VA = 1 | DOTPROD = 1 | LLAMAFILE = 1 | REPACK = 1 | "

INTERRUPTS = """\
           CPU0       CPU1       CPU2       CPU3
 13:    2104377    1932010    1879054    1911877    GICv2  30 Level     arch_timer
106:   48211903          0          0          0  rp1_irq_chip   6 Level     eth0
163:     184401          0          0          0    GICv2 305 Level     mmc0
IPI0:     81620     136060     150551     157164       Rescheduling interrupts
Err:          0
"""
STAT = """\
cpu  4012345 0 201234 9000000 20000 0 20000 0 0 0
cpu0 1003086 0 50308 2250000 5000 0 {soft} 0 0 0
cpu1 1003086 0 50308 2250000 5000 0 2000 0 0 0
cpu2 1003086 0 50308 2250000 5000 0 2000 0 0 0
cpu3 1003086 0 50308 2250000 5000 0 2000 0 0 0
intr 123456
"""
MEMINFO = "MemTotal:        8245008 kB\nMemFree:          401232 kB\nMemAvailable:    {free} kB\n"
SWAPS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n{device}  partition\t2097136\t\t{used}\t\t100\n"
PRESSURE = "some avg10=0.00 avg60={avg60} avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 total=1\n"
DF = """\
Filesystem     1024-blocks     Used Available Capacity Mounted on
/dev/mmcblk0p2    60640144 17210112  {free}      30% /
"""
MOUNTS = """\
/dev/mmcblk0p2 / ext4 {options},noatime 0 0
/dev/mmcblk0p1 /boot/firmware vfat rw,relatime,fmask=0022 0 0
"""
FSTAB = "PARTUUID=1234-02  /  ext4  defaults,noatime  0  1\n"
DD_SAID = """\
32+0 records in
32+0 records out
33554432 bytes (34 MB, 32 MiB) copied, {seconds} s, 88.1 MB/s
"""
TIMEDATECTL = "Timezone=Asia/Seoul\nLocalRTC=no\nCanNTP=yes\nNTP={ntp}\nNTPSynchronized={done}\n"
FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid lrcpc dcpop asimddp"
)
GRO = """\
Features for eth0:
rx-checksumming: on
generic-segmentation-offload: on
generic-receive-offload: {gro}
large-receive-offload: off [fixed]
"""
COALESCE = """\
Coalesce parameters for eth0:
Adaptive RX: {adaptive}  TX: n/a
stats-block-usecs: n/a
rx-usecs: {us}
rx-frames: 1
"""
EEE = """\
EEE settings for eth0:
\tEEE status: {status}
\tTx LPI: disabled
\tSupported EEE link modes:  100baseT/Full
\t                           1000baseT/Full
"""
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1D32 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 9001 1 0 100 0 0 10 0
   1: {rank}:A28B 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 9002 1 0 100 0 0 10 0
   2: 3201A8C0:1D32 0101A8C0:C350 01 00000000:00000000 00:00000000 00000000 1000 0 9003 1 0 100 0 0 10 0
"""
# As proc_pid_stat(5) has it: user and system time, and the start, in hundredths of a second.
PROCESS = (
    "{pid} ({name}) S 1 {pid} {pid} 0 -1 4194560 0 0 0 0 {user} 500 0 0 20 0 1 0 {start} 0 0 0\n"
)


def addresses(**changes: Any) -> str:
    """What `ip -json address` writes of a board on a cable, some of it changed."""
    lo = {"ifname": "lo", "flags": ["LOOPBACK", "UP", "LOWER_UP"], "mtu": 65536, "addr_info": []}
    eth0 = {
        "ifindex": 2,
        "ifname": "eth0",
        "flags": ["BROADCAST", "MULTICAST", "UP", "LOWER_UP"],
        "mtu": 1500,
        "operstate": "UP",
        "addr_info": [
            {"family": "inet", "local": "192.168.1.50", "prefixlen": 24, "scope": "global"},
            {"family": "inet6", "local": "fe80::1", "prefixlen": 64, "scope": "link"},
        ],
    }
    return json.dumps([lo, eth0 | changes])


def program(pid: int, name: str, user: int = 1000, command: str = "") -> dict[str, str]:
    """The files of a process that has used `user` hundredths of a second in 10,000 seconds, and more."""
    return {
        f"/proc/{pid}/stat": PROCESS.format(pid=pid, name=name, user=user, start=0),
        f"/proc/{pid}/cmdline": f"{command or name}\0",
    }


HEALTHY: dict[str, Content] = {
    "/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "commands/uname -m": "aarch64\n",
    "/bin/sh": b"\x7fELF\x02\x01\x01",
    "/proc/cpuinfo": f"processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: {FEATURES}\nCPU part\t: 0xd0b\n",
    **{f"{CPU}/cpu{n}/topology/thread_siblings_list": f"{n}\n" for n in range(4)},
    "commands/vcgencmd get_throttled": "throttled=0x0\n",
    "/sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "/sys/class/thermal/thermal_zone0/temp": "52600\n",
    f"{CPU}/cpufreq/policy0/scaling_governor": "performance\n",
    f"{CPU}/cpufreq/policy0/scaling_available_governors": "conservative ondemand powersave performance \n",
    f"{CPU}/cpufreq/policy0/scaling_driver": "cpufreq-dt\n",
    f"{CPU}/cpufreq/policy0/scaling_max_freq": "2400000\n",
    f"{CPU}/cpufreq/policy0/cpuinfo_max_freq": "2400000\n",
    "/proc/stat": STAT.format(soft=14000),
    "/proc/interrupts": INTERRUPTS,
    "/proc/meminfo": MEMINFO.format(free=7012345),
    "/proc/swaps": SWAPS.format(device="/dev/zram0", used=0),
    "/proc/pressure/memory": PRESSURE.format(avg60="0.00"),
    "/proc/self/cgroup": "0::/system.slice/dure-node.service\n",
    "/proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
    "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
    "/sys/fs/cgroup/system.slice/dure-node.service/memory.max": "max\n",
    "/sys/block/mmcblk0/device/type": "SD\n",
    "/sys/block/mmcblk0/device/name": "SN64G\n",
    "/sys/fs/ext4/mmcblk0p2/errors_count": "0\n",
    "/proc/mounts": MOUNTS.format(options="rw"),
    "/etc/fstab": FSTAB,
    f"commands/{DD}": DD_SAID.format(seconds="0.381"),
    f"commands/df -Pk {HOME}": DF.format(free=40913344),
    f"commands/df -Pk {NODE}": DF.format(free=40913344),
    "commands/timedatectl show": TIMEDATECTL.format(ntp="yes", done="yes"),
    "commands/ip -json address": addresses(),
    f"{NET}/speed": "1000\n",
    f"{NET}/duplex": "full\n",
    f"{NET}/carrier_down_count": "1\n",
    f"{NET}/statistics/rx_packets": "81234567\n",
    f"{NET}/statistics/tx_packets": "70123456\n",
    f"{NET}/statistics/rx_errors": "0\n",
    f"{NET}/statistics/rx_dropped": "117\n",
    "commands/ethtool -k eth0": GRO.format(gro="off"),
    "commands/ethtool -c eth0": COALESCE.format(us=0, adaptive="off"),
    "commands/ethtool --show-eee eth0": EEE.format(status="disabled"),
    "/proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t6291456\n",
    "/proc/sys/net/ipv4/tcp_wmem": "4096\t16384\t4194304\n",
    "/proc/net/tcp": TCP.format(rank="0100007F"),
    "/proc/uptime": "10000.00 31234.00\n",
    **program(1, "systemd"),
    **program(700, "python3", 3_000_000, "/opt/dure/venv/bin/python\0-m\0dure.cli.main\0node"),
    "/run/systemd/system/.keep": "",
    "commands/systemctl list-timers --output=json": json.dumps(
        [
            {"next": 1800000000000000, "last": 1799913600000000, "unit": "apt-daily.timer"},
            {"next": 1800000000000000, "last": 0, "unit": "fstrim.timer"},
            {"next": 1800000000000000, "last": 1799999400000000, "unit": "sysstat-collect.timer"},
        ]
    ),
    f"{NODE}/node.json": '{"name": "pi-1", "cluster": "home", "port": 7474}',
    UNIT: "[Unit]\n",
    WANTED: "[Unit]\n",
    f"{HOME}/.config/dure/config.toml": "[defaults]\nthreads = 4\n",
}


def write_root(directory: Path, changes: Files = NOTHING) -> Path:
    """Write the healthy board into a directory, with these changes."""
    for name, content in {**HEALTHY, **changes}.items():
        path = _place(directory, name)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        if content is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is FOLDER:
            path.mkdir()
        elif isinstance(content, Path):
            path.symlink_to(content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content)
    return directory


def _place(directory: Path, name: str) -> Path:
    folder, _, command = name.partition("commands/")
    if not folder and command:
        return directory / "commands" / command.replace("/", "_")
    return directory / name.lstrip("/")


def condition_of(
    directory: Path, changes: Files = NOTHING, build: Callable[[], str] = lambda: BUILD
) -> Condition:
    """Examine the board with these changes. build: says what its llama.cpp was built with."""
    own = Installation(
        node_directory=NODE,
        user_units=f"{HOME}/.config/systemd/user",
        config_file=f"{HOME}/.config/dure/config.toml",
        unit="dure-node.service",
        folders={"models": f"{HOME}/models", "a node's shards": NODE},
        ports=(7474,),
        build=build,
        kernels=lambda: Kernels("native", "native"),
    )
    return examine(own, write_root(directory, changes))
