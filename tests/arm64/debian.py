"""Debian for arm64 in a folder, made once, and how a program runs in it.

Knows debootstrap, chroot and mounts. Each program gets mounts of its own, which end with it, so nothing is
left mounted and nothing outside can be deleted by deleting the folder. Needs root.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.arm64.board import Board
from tests.arm64.commands import run, say

__all__ = ["CACHE", "PROJECT", "ROOT", "inside", "make_root"]

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / "build" / "arm64"
ROOT = CACHE / "root"
RELEASE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
PACKAGES = ("hostname", "libgomp1", "python3", "python3-venv")
MADE_OF = " ".join((RELEASE, *PACKAGES))

# $0: the root. $1: a board's cpuinfo. $2, $3: folders that have the same path inside and outside.
_ENTER = """
root=$0 cpuinfo=$1
mount -t proc proc "$root/proc"
mount --bind "$cpuinfo" "$root/proc/cpuinfo"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
for folder in "$2" "$3"; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
done
shift 3
exec chroot "$root" "$@"
"""


def inside(board: Board, argv: Sequence[str | Path]) -> list[str]:
    """Return the command that runs `argv` in the root, on an emulated board's processor.

    The project and the folder for temporary files are inside too, under the same paths.
    """
    shared = (tempfile.gettempdir(), PROJECT)
    path = f"PATH={board.venv}/bin:{PATH}"
    home = ("HOME=/root", "LANG=C.UTF-8", f"QEMU_CPU={board.cpu}")
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", _ENTER, ROOT]
    words += [board.cpuinfo, *shared, "env", "-C", PROJECT, "-u", "PYTHONPATH", path, *home, *argv]
    return list(map(str, words))


def make_root() -> None:
    """Make the root with debootstrap, unless it is there already. Raises Arm64Error.

    Half a root, or one of other packages, is made again from the start, but for what was downloaded.
    """
    note = Path("etc") / "made-of"
    if (ROOT / note).exists() and (ROOT / note).read_text() == MADE_OF:
        say(f"  Debian for arm64 is in {ROOT}")
        return
    half, packages = CACHE / "root.part", CACHE / "debs"
    for old in (half, ROOT):
        shutil.rmtree(old, ignore_errors=True)
    packages.mkdir(parents=True, exist_ok=True)
    options = ("--foreign", "--arch=arm64", "--variant=minbase", f"--include={','.join(PACKAGES)}")
    run(
        "download Debian for arm64",
        ["debootstrap", *options, f"--cache-dir={packages}", RELEASE, half, MIRROR],
        CACHE / "debootstrap.log",
    )
    _keep_what_was_chosen(half)
    run(
        "set up Debian, emulated",  # which makes devices and mounts, so it sees none of this machine's
        ["unshare", "--mount", "chroot", half, "/debootstrap/debootstrap", "--second-stage"],
        CACHE / "second-stage.log",
        {"PATH": PATH, "LANG": "C.UTF-8"},
    )
    (half / note).write_text(MADE_OF)
    half.rename(ROOT)


def _keep_what_was_chosen(root: Path) -> None:
    """Shorten the list of Debian's packages to those that were downloaded.

    debootstrap reads it again for every dependency, with an emulated Perl: 60,000 packages take an hour.
    """
    made = root / "debootstrap"
    chosen = {name for part in ("required", "base") for name in (made / part).read_text().split()}
    for packages in (root / "var/lib/apt/lists").glob("*_Packages"):
        entries = packages.read_text().split("\n\n")
        names = (entry.partition("\n")[0].removeprefix("Package: ") for entry in entries)
        kept = [entry for entry, name in zip(entries, names, strict=True) if name in chosen]
        packages.write_text("\n\n".join([*kept, ""]))
