"""Reads what models lie on: how much room there is, and how an SD card does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from dure.hardware.examination.condition import Card, DiskRoom
from dure.hardware.examination.machine_root import MachineRoot, UnreadableError

__all__ = ["card_speeds", "cards", "rooms"]

_WORN_STATES = {
    2: 9,
    3: 11,
}  # pre_eol_info: 2 warns when 80 % of the spare blocks are gone, 3 is urgent
_DISK_KINDS = {"ext2", "ext3", "ext4", "vfat", "f2fs", "btrfs"}
_READ_MIB = 32


def rooms(root: MachineRoot, folders: Mapping[str, str]) -> tuple[DiskRoom, ...]:
    """Return the room for folders, each disk once. folders: by what lies there. Raises UnreadableError."""
    found: dict[str, DiskRoom] = {}
    for what, folder in folders.items():
        there = _existing(root, folder)
        fields = root.output("df", "-Pk", there).splitlines()[-1].split(maxsplit=5)
        try:
            size, free = int(fields[1]) << 10, int(fields[3]) << 10
        except (IndexError, ValueError):
            raise UnreadableError(f"`df -Pk {there}` writes no sizes") from None
        found.setdefault(fields[-1], DiskRoom(what, there, size, free))
    return tuple(found.values())


def _existing(root: MachineRoot, folder: str) -> str:
    path = PurePosixPath(folder)
    return str(next(one for one in (path, *path.parents) if root.has(str(one))))


def cards(root: MachineRoot) -> tuple[Card, ...]:
    """Return the SD cards and soldered flash that the machine has. Raises UnreadableError."""
    return tuple(_card(root, path) for path in root.numbered("/sys/block", "mmcblk"))


def _card(root: MachineRoot, path: str) -> Card:
    device, name = f"{path}/device", path.rpartition("/")[2]
    errors = [
        root.number(f"/sys/fs/ext4/{part}/errors_count") or 0
        for part in root.names("/sys/fs/ext4")
        if part.startswith(name)
    ]
    return Card(
        name,
        root.text(f"{device}/type"),
        root.text(f"{device}/name"),
        _life_used(root, device),
        sum(errors),
        tuple(_fallen_to_read_only(root, name)),
    )


def _life_used(root: MachineRoot, device: str) -> int | None:
    """Return the card's own estimate of what is used up, in tenths: JEDEC's 0x01 is up to 10 %."""
    tenths = [int(word, 16) for word in root.text(f"{device}/life_time").split()]
    state = root.number(f"{device}/pre_eol_info") or 0
    worst = max([*tenths, _WORN_STATES.get(state, 0)])
    return worst or None


def _fallen_to_read_only(root: MachineRoot, name: str) -> Iterator[str]:
    """Yield where file systems are mounted read-only, though /etc/fstab does not want that."""
    wanted = {
        words[1]
        for line in root.text("/etc/fstab").splitlines()
        if len(words := line.split()) > 3 and "ro" in words[3].split(",")
    }
    for line in root.text("/proc/mounts").splitlines():
        device, point, kind, options = line.split()[:4]
        is_read_only = "ro" in options.split(",") and kind in _DISK_KINDS
        if device.startswith(f"/dev/{name}") and is_read_only and point not in wanted:
            yield point


def card_speeds(root: MachineRoot) -> dict[str, float]:
    """Measure how fast each SD card is read, past the memory. Raises UnreadableError."""
    return {card.name: _read_speed(root, card.name) for card in cards(root) if card.kind == "SD"}


def _read_speed(root: MachineRoot, name: str) -> float:
    count, device = f"count={_READ_MIB}", f"if=/dev/{name}"
    # dd writes its result to stderr, so a shell that knows the device only turns it round.
    said = root.output("sh", "-c", f"dd {device} of=/dev/null bs=1M {count} iflag=direct 2>&1")
    found = re.search(r"^(\d+) bytes .* copied, ([\d.e-]+) s", said, re.MULTILINE)
    if found is None:
        raise UnreadableError(f"/dev/{name}: {(said.strip().splitlines() or ['no answer'])[-1]}")
    return int(found[1]) / float(found[2])
