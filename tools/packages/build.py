"""Build the packages that are given to others: `make wheel`, `make wheel-arm64`, `make sdist`.

A wheel has the native code for several levels of processors. Its name promises the C library that it needs
(PEP 600), so what was built is compared with that. Knows CMakeLists.txt's options and ELF, by readelf.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
GLIBC = (2, 34)  # of Debian 12, Ubuntu 22.04 and Fedora 35, or newer
# What a native library may need. MPI's and ggml's come with the wheels that ours requires, and the
# optimizer's needs neither.
MAY_NEED = re.compile(r"lib(mpi\.so\.12|ggml-base\.so\.0|m\.so\.6|c\.so\.6)|ld-linux-.*")
TOOLCHAIN = PROJECT / "tools" / "packages" / "aarch64.cmake"


def main() -> int:
    """Build what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["sdist", "x86_64", "aarch64"], help="or a wheel for it")
    parser.add_argument("--out", type=Path, default=PROJECT / "dist", help="the folder for it")
    arguments = parser.parse_args()
    options = ["--sdist"] if arguments.what == "sdist" else wheel_options(arguments.what)
    with tempfile.TemporaryDirectory(prefix="dure-build-") as folder:
        # From a folder of its own: a module `build` would hide the program's.
        words = [sys.executable, "-m", "build", *options, "--outdir", folder, str(PROJECT)]
        subprocess.run(words, check=True, cwd=folder)
        (package,) = (one for one in Path(folder).iterdir() if one.name.startswith("dure-"))
        if package.suffix == ".whl" and (wrong := problems_of(package)):
            sys.stderr.write("".join(f"{package.name}: {one}\n" for one in wrong))
            return 1
        arguments.out.mkdir(parents=True, exist_ok=True)
        kept = arguments.out / package.name
        kept.write_bytes(package.read_bytes())
    sys.stdout.write(f"{kept}  {kept.stat().st_size / 1e6:.1f} MB\n")
    return 0


def wheel_options(architecture: str) -> list[str]:
    """Return how a wheel for an architecture is built on this machine."""
    tag = f"py3-none-manylinux_{GLIBC[0]}_{GLIBC[1]}_{architecture}"
    settings = {
        "wheel.tags": tag,
        "build-dir": f"build/wheel-{architecture}",
        "cmake.define.DURE_VARIANTS": "ON",
    }
    if platform.machine() != architecture:
        settings["cmake.define.DURE_LINK_BY_NAME"] = "ON"
        settings["cmake.define.CMAKE_TOOLCHAIN_FILE"] = str(TOOLCHAIN)
    return ["--wheel", *(f"-C{name}={value}" for name, value in settings.items())]


def problems_of(wheel: Path) -> list[str]:
    """Return what makes a wheel's native libraries other than its name says."""
    with (
        tempfile.TemporaryDirectory(prefix="dure-wheel-") as folder,
        zipfile.ZipFile(wheel) as zipped,
    ):
        names = [name for name in zipped.namelist() if name.endswith(".so")]
        paths = [Path(zipped.extract(name, folder)) for name in names]
        found = [f"{path.name} {problem}" for path in paths for problem in _problems(path)]
    return found or ([] if names else ["there is no native library in it"])


def _problems(library: Path) -> list[str]:
    words = ["readelf", "--wide", "--dynamic", "--version-info", str(library)]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", told)
    found = [f"needs {name}" for name in needed if not MAY_NEED.fullmatch(name)]
    is_engine = library.name.startswith("libdure_native")
    found += [
        f"does not name {name}" if is_engine else f"needs {name}"
        for name in ("libmpi.so.12", "libggml-base.so.0")
        if (name in needed) is not is_engine
    ]
    if re.search(r"\((RPATH|RUNPATH)\)", told):
        found.append("has a run path")
    newest = max((int(a), int(b)) for a, b in re.findall(r"GLIBC_(\d+)\.(\d+)", told))
    if newest > GLIBC:
        found.append(f"needs glibc {newest[0]}.{newest[1]}: build it on an older system")
    return found


if __name__ == "__main__":
    sys.exit(main())
