"""What a machine is before it has dure: asked of its shell, and judged whether it can become a node.

Knows the script that inspects it, and reads what it prints. Refuses to change anything, and to know how
the script gets there.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from shlex import quote

import msgspec
from cryptography import x509

from dure.cluster.root.membership import Cluster, Member
from dure.cluster.software import NODE_UNIT, PACKAGES
from dure.cluster.trust.identity import fingerprint
from dure.errors import ClusterError
from dure.sizes import compared

__all__ = ["HostFacts", "host_facts", "inspection_script"]

FREE_BYTES = 2_500_000_000  # llama.cpp's build, and what is installed
_MARK = "dure:"
_WHAT_IS_IN = {"python3-venv": "Python's venv", "build-essential": "a C and C++ compiler"}
_PROCESSORS = ("x86_64", "aarch64", "riscv64")

# What it prints is `dure:KEY=VALUE`, among whatever a login shell prints.
# No backslash: not every login shell reads one between quotes as sh does.
_SCRIPT = """
say() { echo "dure:$1=$2"; }
say system "$(uname -s)"
say processor "$(uname -m)"
say uid "$(id -u)"
if [ "$(id -u)" = 0 ]; then
    base=/opt/dure user=NODE_USER
    home=$(getent passwd "$user" | cut -d: -f6)
    if [ -n "$home" ]; then say user_exists yes; else home=/var/lib/$user; fi
else
    base=$HOME/.local/share/dure user=$(id -un) home=$HOME
    say user_exists yes
fi
say base "$base"
say user "$user"
say user_home "$home"
set -- $SSH_CONNECTION
say reached_from "$1"
say cores "$(getconf _NPROCESSORS_ONLN)"
say memory_kib "$(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)"
for one in python3 python3.14 python3.13 python3.12 python3.11; do
    command -v $one >/dev/null || continue
    say python_seen "$($one -V 2>&1)"
    $one -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    say python $one
    $one -c 'import ensurepip, venv' 2>/dev/null && say venv yes
    $one -c 'import sys; sys.exit(sys.maxsize < 2**32)' && say wide yes
    break
done
for one in cc gcc clang; do command -v $one >/dev/null && say cc $one; done
for one in c++ g++ clang++; do command -v $one >/dev/null && say cxx $one; done
there=$base
while [ ! -d "$there" ]; do there=$(dirname "$there"); done
say free_kib "$(df -Pk "$there" | awk 'NR == 2 { print $4 }')"
node=${DURE_NODE_DIR:-$home/.local/share/dure/node}
say node_directory "$node"
[ -r "$node/node.json" ] && say node "$(cat "$node/node.json")"
[ -r UNIT ] && say unit "$(sed -n s/^ExecStart=//p UNIT)"
[ -r "$node/authority.pem" ] && say authority "$(echo $(cat "$node/authority.pem"))"
[ -r "$node/certificate.pem" ] && say certificate "$(echo $(cat "$node/certificate.pem"))"
[ -x "$base/venv/bin/python" ] && "$base/venv/bin/python" -c 'import sys
from importlib.metadata import version
for name in sys.argv[1:]: print(f"dure:version_{name}={version(name)}")' NAMES 2>/dev/null
exit 0
"""


def inspection_script(user: str) -> str:
    """Return the script that inspects a machine. user: whose rights the node gets if root logs in."""
    names = " ".join(PACKAGES.values())
    script = _SCRIPT.replace("NODE_USER", quote(user)).replace("NAMES", names)
    return script.replace("UNIT", f"/etc/systemd/system/{NODE_UNIT}")


@dataclass(frozen=True)
class HostFacts:
    """What the script found. base: where dure is installed. user: whose rights the node has.

    python: the program that is new enough, "" if none is; python_seen: the last that was tried.
    reached_from: the root's address as the machine sees it. unit: the command of the installed service.
    authority, certificate: PEM on one line. versions: None if dure is not installed.
    """

    system: str = ""
    processor: str = ""
    uid: int = 0
    base: str = ""
    user: str = ""
    user_home: str = ""
    user_exists: bool = False
    reached_from: str = ""
    cores: int = 1
    memory_bytes: int = 0
    python: str = ""
    python_seen: str = ""
    has_venv: bool = False
    is_64_bit: bool = False
    has_compilers: bool = False
    free_bytes: int = 0
    node_directory: str = ""
    node_name: str = ""
    node_cluster: str = ""
    unit: str = ""
    authority: str = ""
    certificate: str = ""
    versions: dict[str, str] | None = None

    @property
    def is_root(self) -> bool:
        """Whether ssh logs in as root."""
        return self.uid == 0

    def why_unfit(self) -> ClusterError | None:
        """Return why this machine cannot become a node, None if it can."""
        if self.system != "Linux":
            return ClusterError(
                f"it runs {self.system or 'nothing known'}", "dure's nodes need Linux"
            )
        if self.processor not in _PROCESSORS or (self.python and not self.is_64_bit):
            return ClusterError(
                f"its system is of 32 bits ({self.processor})",
                "install a 64-bit one; every board since the Raspberry Pi 3 can run it",
            )
        if not self.python:
            return ClusterError(
                f"it has {self.python_seen or 'no Python'}, and dure needs Python 3.11 or newer",
                "`sudo apt install python3 python3-venv build-essential` on Debian 12 or newer",
            )
        return self._why_not_built() if self.versions is None else None

    def _why_not_built(self) -> ClusterError | None:
        """Return why dure cannot be installed, None if it can."""
        lacking = [] if self.has_venv else ["python3-venv"]
        lacking += [] if self.has_compilers else ["build-essential"]
        if lacking:
            return ClusterError(
                f"it lacks {' and '.join(_WHAT_IS_IN[package] for package in lacking)}",
                f"`sudo apt install {' '.join(lacking)}` on it",
            )
        if self.free_bytes < FREE_BYTES:
            has, takes = compared(self.free_bytes, FREE_BYTES)
            return ClusterError(
                f"{has} are free for {self.base}, and building takes {takes}",
                "make room there",
            )
        return None

    def is_of(self, cluster: Cluster) -> bool:
        """Return if its authority is this cluster's."""
        der = _der(self.authority)
        return der is not None and fingerprint(der) == cluster.authority.fingerprint

    def member_of(self, cluster: Cluster) -> Member | None:
        """Return the member of this cluster whose certificate it has, if it is one."""
        der = _der(self.certificate)
        if der is None or not self.is_of(cluster):
            return None
        try:
            serial = x509.load_der_x509_certificate(der).serial_number
        except ValueError:
            return None
        return next((one for one in cluster.members if one.serial == serial), None)


def _der(pem: str) -> bytes | None:
    """Return a certificate (DER) whose lines were joined by blanks; None if it is none."""
    match = re.search(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", pem)
    try:
        return base64.b64decode(match[1].replace(" ", ""), validate=True) if match else None
    except binascii.Error:
        return None


def host_facts(lines: Iterable[str]) -> HostFacts:
    """Read what the script printed. Raises ClusterError if it is nonsense."""
    values: dict[str, str] = {}
    for line in lines:
        mark, _, rest = line.partition(_MARK)
        if not mark and "=" in rest:
            key, _, value = rest.partition("=")
            values[key] = value.strip()
    try:
        node = msgspec.json.decode(values.get("node", "{}"), type=dict[str, str | int])
        return _facts(values, str(node.get("name", "")), str(node.get("cluster", "")))
    except (ValueError, msgspec.MsgspecError) as error:
        raise ClusterError(f"the machine answers in words that make no sense ({error})") from error


def _facts(values: dict[str, str], node: str, cluster: str) -> HostFacts:
    versions = {name: values.get(f"version_{package}", "") for name, package in PACKAGES.items()}
    return HostFacts(
        system=values.get("system", ""),
        processor=values.get("processor", ""),
        uid=int(values.get("uid", "0")),
        base=values.get("base", ""),
        user=values.get("user", ""),
        user_home=values.get("user_home", ""),
        user_exists="user_exists" in values,
        reached_from=values.get("reached_from", ""),
        cores=int(values.get("cores") or "1"),
        memory_bytes=int(values.get("memory_kib") or "0") * 1024,
        python=values.get("python", ""),
        python_seen=values.get("python_seen", ""),
        has_venv="venv" in values,
        is_64_bit="wide" in values,
        has_compilers="cc" in values and "cxx" in values,
        free_bytes=int(values.get("free_kib") or "0") * 1024,
        node_directory=values.get("node_directory", ""),
        node_name=node,
        node_cluster=cluster,
        unit=values.get("unit", ""),
        authority=values.get("authority", ""),
        certificate=values.get("certificate", ""),
        versions=versions if all(versions.values()) else None,
    )
