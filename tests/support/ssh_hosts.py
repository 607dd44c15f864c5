"""Makes machines to log in to: hosts with their own file system, a real sshd and a real sudo.

Every machine sees this one's files and writes to a copy (an overlay), so its /etc, /opt and homes are its
own. Only systemd is faked: a `systemctl` that records its commands and starts what a unit names.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

from hosts import Host, linked_hosts

import dure

WAIT_S = 120.0
KEY = "/root/.ssh/key"
_OWN_ROOT = """set -e
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
for kept in /proc /sys /dev "$@"; do mkdir -p /mnt/root$kept; mount --rbind $kept /mnt/root$kept; done
mount -t tmpfs none /mnt/root/run
cd /mnt/root
exec chroot . sh -c 'cd /; mkdir -p /run/sshd; chmod 755 /root; echo ready; exec sleep infinity'
"""
_SSHD = """set -e
printf '127.0.0.1 localhost %s\\n' "$(hostname)" >/etc/hosts
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/key_of_host
cat >/etc/ssh/authorized
cat >/etc/ssh/of_test <<END
HostKey /etc/ssh/key_of_host
AuthorizedKeysFile /etc/ssh/authorized
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PidFile none
UsePAM no
Match User bare
    SetEnv PATH=/srv/bare
END
for user in pi guest bare; do
    useradd --create-home --shell /bin/sh $user
    usermod --password '*' $user
done
usermod --shell "$(command -v fish || echo /bin/sh)" guest
echo 'pi ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/pi
rm -rf /etc/systemd/system/dure-node.service /opt/dure /var/lib/dure /root/.bashrc /root/.profile
printf '[global]\nno-index = true\n' >/etc/pip.conf
"$(command -v sshd)" -f /etc/ssh/of_test
cat /etc/ssh/key_of_host.pub
"""
_PYTHON = """#!/bin/sh
# A venv sees what is installed for the tests, but for dure: so nothing is compiled, and pip is there.
[ "$1 $2" = "-m venv" ] || exec {python} "$@"
{python} "$@" --without-pip || exit
for last; do :; done
for packages in "$last"/lib/python*/site-packages; do echo /srv/installed >$packages/of_test.pth; done
ln -sfn {prefix}/lib/libmpi* {prefix}/lib/mpich "$last/lib"  # what MPICH's wheel puts there
ln -sfn {prefix}/bin/hydra* {prefix}/bin/mpi* "$last/bin"
"""
_SYSTEMCTL = """#!/bin/sh
echo "$@" >>/told
case "$1" in
    restart) ;;
    disable) kill -- "-$(cat /run/node)"; while kill -0 "$(cat /run/node)"; do sleep 0.05; done ;;
esac 2>/dev/null
[ "$1" = restart ] || exit 0
of() { sed -n "s/^$1=//p" /etc/systemd/system/dure-node.service; }
setsid runuser -u "$(of User)" -- env "$(of Environment)" $(of ExecStart) </dev/null >/said 2>&1 &
echo $! >/run/node
"""


@dataclass
class Computer:
    """A machine. process: keeps its file system."""

    host: Host
    process: subprocess.Popen[str]
    key: str = ""

    def run(
        self, *argv: str, feed: str = "", status: int | None = 0, wait_s: float = WAIT_S
    ) -> str:
        """Run a command there as root and return its output. status: required exit status, if any."""
        entered = (
            "--target",
            str(self.process.pid),
            "--mount",
            "--net",
            "--uts",
            "--root",
            "--wd=/",
        )
        done = subprocess.run(
            ["nsenter", *entered, *argv],
            env={
                "PATH": f"/usr/local/bin:{os.environ['PATH']}",
                "HOME": "/root",
                "COLUMNS": "250",
                "LANG": "C.UTF-8",
            },
            input=feed,
            capture_output=True,
            text=True,
            timeout=wait_s,
            check=False,
        )
        assert status in {None, done.returncode}, done.stdout + done.stderr
        return done.stdout + (done.stderr if status != 0 else "")

    def dure(self, *arguments: str, status: int | None = 0) -> str:
        """Run this machine's dure, which is the one under test, and return its output."""
        return self.run(sys.executable, "-m", "dure.cli.main", *arguments, status=status)

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file there, and create the directories above it."""
        script = 'mkdir -p "${1%/*}" && cat >"$1" && chmod "$2" "$1"'
        self.run("sh", "-c", script, "sh", path, mode, feed=text)


@contextmanager
def computers(count: int) -> Iterator[list[Computer]]:
    """Make n machines on a switch; the first may log in to the others, and knows their keys."""
    with linked_hosts(count) as hosts:
        found: list[Computer] = []
        try:
            found.extend(_started(host) for host in hosts)
            _introduce(*found)
            yield found
        finally:
            for computer in found:
                computer.process.kill()
                computer.process.wait()


def _introduce(root: Computer, *others: Computer) -> None:
    """Give the root a key for the others, and their host keys."""
    root.run("mkdir", "-p", "/root/.ssh")
    root.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY)
    public = root.run("cat", f"{KEY}.pub")
    for other in others:
        other.key = other.run("sh", "-c", _SSHD, feed=public)
        _furnish(other)
    known = "".join(f"{other.host.address} {other.key}" for other in others)
    root.write("/root/.ssh/known_hosts", known)
    root.write("/root/.ssh/config", f"IdentityFile {KEY}\nIdentitiesOnly yes\n", "600")


def _started(host: Host) -> Computer:
    device = Path("/").stat().st_dev
    places = {Path(place).resolve() for place in (sys.prefix, sys.base_prefix)}
    elsewhere = [str(place) for place in places if place.stat().st_dev != device]
    process = subprocess.Popen(
        host.command(["sh", "-c", _OWN_ROOT, "sh", *elsewhere]), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == "ready\n", "overlays need root, and a kernel that has them"
    return Computer(host, process)


def _furnish(computer: Computer) -> None:
    python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    computer.write(
        "/usr/local/bin/python3", _PYTHON.format(python=python, prefix=sys.prefix), "755"
    )
    computer.write("/usr/local/bin/systemctl", _SYSTEMCTL, "755")
    computer.run("mkdir", "-p", "/srv/installed", "/srv/bare")
    entries: dict[str, Path] = {}
    for place in map(Path, sys.path):
        if place.name == "site-packages":
            for entry in place.iterdir():
                if not entry.name.startswith(("dure", "__")) and entry.suffix != ".pth":
                    entries.setdefault(entry.name, entry)
    computer.run("ln", "-s", *map(str, entries.values()), "/srv/installed")


def bare(computer: Computer, *programs: str, python: str) -> None:
    """Let the user `bare` there find these programs besides the usual ones, and this Python's version."""
    usual = ["sh", "uname", "id", "getent", "cut", "getconf", "awk", "dirname", "df", "cat", "env"]
    script = 'for one; do ln -sf "$(command -v $one)" /srv/bare/; done'
    computer.run("sh", "-c", f"rm -rf /srv/bare/*; {script}", "sh", *usual, *programs)
    said = f'#!/bin/sh\n[ "$1" = -V ] && echo Python {python}\n'
    is_old = tuple(map(int, python.split("."))) < (3, 11)
    computer.write("/srv/bare/python3", f"{said}exit {int(is_old)}\n", "755")


def wheel(directory: Path) -> Path:
    """Return the dure under test as a wheel."""
    package, installed = Path(dure.__file__).parent, distribution("dure")
    name = f"dure-{installed.version}"
    facts = {f: installed.read_text(f) or "" for f in ("METADATA", "WHEEL", "entry_points.txt")}
    tag = next(line[5:] for line in facts["WHEEL"].splitlines() if line.startswith("Tag: "))
    files = {f"{name}.dist-info/{fact}": text.encode() for fact, text in facts.items()}
    for path in sorted(package.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            files[str(path.relative_to(package.parent))] = path.read_bytes()
    record = "".join(f"{file},sha256={_sha256(data)},{len(data)}\n" for file, data in files.items())
    made = directory / f"{name}-{tag}.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for file, data in files.items():
            archive.writestr(file, data)
        archive.writestr(f"{name}.dist-info/RECORD", f"{record}{name}.dist-info/RECORD,,\n")
    return made


def _sha256(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
