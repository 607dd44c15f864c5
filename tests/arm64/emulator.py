"""Lets this kernel start programs for arm64: QEMU, registered with binfmt_misc for as long as needed.

Knows binfmt_misc. Refuses to know where the programs are: with the flag F the kernel holds QEMU open, so
it needs not be in the root that they run in.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.arm64.commands import Arm64Error, say

__all__ = ["arm64_programs"]

QEMU = "qemu-aarch64-static"
LOCK = Path("/run/dure-arm64.lock")
BINFMT = Path("/proc/sys/fs/binfmt_misc")
OURS = BINFMT / "dure-arm64"
# An ELF file of 64 bits, little-endian, a program (2) or a shared one (3), for arm64 (0xb7).
MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"


@contextlib.contextmanager
def arm64_programs() -> Iterator[None]:
    """Run the block with programs for arm64 as startable as any; nothing is registered afterwards.

    Raises Arm64Error if binfmt_misc is missing, or while another run is on.
    """
    with _only_one(), _binfmt():
        if _registered_by_others():
            say("  arm64 programs start already: QEMU is registered on this machine")
            yield
            return
        if OURS.exists():  # left behind by a killed run
            OURS.write_text("-1")
        _register()
        try:
            yield
        finally:
            OURS.write_text("-1")


def _register() -> None:
    qemu = shutil.which(QEMU)
    # P: a program keeps its own name. F: the kernel opens QEMU now.
    (BINFMT / "register").write_text(rf":{OURS.name}:M::{MAGIC}:{MASK}:{qemu}:PF")
    say(f"  registered {qemu} for arm64 programs, until this run ends")


def _registered_by_others() -> bool:
    for entry in BINFMT.iterdir():
        if entry.name in {"register", "status", OURS.name}:
            continue
        fields = dict(line.partition(" ")[::2] for line in entry.read_text().splitlines())
        opened = "F" in fields.get("flags:", "")
        if "enabled" in fields and opened and fields.get("magic", "")[36:40] == "b700":
            return True
    return False


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    with LOCK.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Arm64Error("another `make test-arm64` runs here: wait until it ends") from None
        yield


@contextlib.contextmanager
def _binfmt() -> Iterator[None]:
    """Mount binfmt_misc for the block, if it is not mounted already."""
    if (BINFMT / "register").exists():
        yield
        return
    mount = ["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip()
        raise Arm64Error(
            f"this kernel cannot start programs by an emulator ({reason}): use one with binfmt_misc"
        )
    try:
        yield
    finally:
        subprocess.run(["umount", str(BINFMT)], check=False)
