"""dure and all that it needs as wheels for arm64: downloaded, or compiled here by a cross compiler.

Compiled in emulation, llama.cpp alone takes hours. Knows pip and scikit-build-core.
"""

from __future__ import annotations

import re
import shutil
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

from tests.arm64.board import Board
from tests.arm64.commands import run, say
from tests.arm64.debian import CACHE, PROJECT

__all__ = ["build_and_download", "requirements"]

PYTHON = "3.11"  # of Debian bookworm, whose C library is 2.36
PLATFORMS = ("linux", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, 37)))
FOR_TESTS = (
    "gguf",
    "hypothesis",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
)  # of the group `test`
TOOLS = CACHE / "tools"


def build_and_download(board: Board, project: dict[str, Any], wheels: Path) -> None:
    """Fill a board's folder with wheels: dure's anew, others if they are missing. Raises Arm64Error.

    project: what `pyproject.toml` holds.
    """
    wheels.mkdir(parents=True, exist_ok=True)
    _make_tools(project)
    llama = _pinned(project, "llama-cpp-python")
    _build_llama(board, llama, wheels)
    _download(_pinned(project, "mpich"), wheels)
    _build_dure(board, project, wheels)
    wanted = ["--find-links", str(wheels), *requirements(project)]
    _pip_download("download what dure and its tests need", wanted, wheels)


def _pinned(project: dict[str, Any], name: str) -> str:
    (found,) = [r for r in project["build-system"]["requires"] if r.startswith(f"{name}==")]
    return str(found)


def _wheel(wheels: Path, requirement: str) -> Path | None:
    """Return the wheel of NAME==VERSION, if it is there."""
    name, _, version = requirement.partition("==")
    pattern = f"{re.sub('[-.]', '_', name)}-{version}-*.whl"
    return next(iter(wheels.glob(pattern)), None)


def _make_tools(project: dict[str, Any]) -> None:
    """Make an environment of this machine's own that compiles for the other."""
    (backend,) = [r for r in project["build-system"]["requires"] if r.startswith("scikit")]
    if (TOOLS / "bin" / "ninja").exists():
        return
    venv.create(TOOLS, with_pip=True, clear=True)
    tools = [TOOLS / "bin" / "pip", "install", "--upgrade", "pip", backend, "cmake", "ninja"]
    run("install what compiles", tools, CACHE / "tools.log")


def _build_llama(board: Board, requirement: str, wheels: Path) -> None:
    if found := _wheel(wheels, requirement):
        say(f"  llama.cpp is compiled: {found.name}")
        return
    options = f"-DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH={board.arch} -DLLAVA_BUILD=OFF"
    arguments = ["--no-binary=:all:", requirement]
    _build(f"compile llama.cpp for {board.name}", arguments, wheels, {"CMAKE_ARGS": options})


def _build_dure(board: Board, project: dict[str, Any], wheels: Path) -> None:
    """Compile dure against the headers and libraries in the other wheels."""
    unpacked = wheels / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    for name in ("llama-cpp-python", "mpich"):
        wheel = _wheel(wheels, _pinned(project, name))
        assert wheel is not None
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
    (mpi,) = unpacked.glob("mpich-*.data/data")
    compiler = mpi / "bin" / "mpicc"
    compiler.chmod(0o755)
    for old in wheels.glob("dure-*.whl"):
        old.unlink()
    environment = {
        "CMAKE_ARGS": f"-DCMAKE_C_FLAGS=-march={board.arch} -DMPI_C_COMPILER={compiler}",
        "PYTHONPATH": str(unpacked),  # where CMakeLists.txt looks for llama_cpp
    }
    _build(f"compile dure for {board.name}", [str(PROJECT)], wheels, environment)


def _build(what: str, arguments: list[str], wheels: Path, environment: dict[str, str]) -> None:
    """Build one wheel for arm64, with tools of this machine."""
    run(
        what,
        [TOOLS / "bin" / "pip", "wheel", "--no-build-isolation", "--no-deps", "-v",
         "--wheel-dir", wheels, *arguments],
        wheels / "build.log",
        {
            **environment,
            "_PYTHON_HOST_PLATFORM": "linux-aarch64",  # what the wheel is named after
            "CMAKE_TOOLCHAIN_FILE": str(Path(__file__).with_name("toolchain.cmake")),
            "PATH": f"{TOOLS / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        },
    )  # fmt: skip


def _download(requirement: str, wheels: Path) -> None:
    if not _wheel(wheels, requirement):
        _pip_download(f"download {requirement}", ["--no-deps", requirement], wheels)


def requirements(project: dict[str, Any]) -> list[str]:
    """Return what is installed on a board: dure, and what its tests need there."""
    tests = project["dependency-groups"]["test"]
    chosen = [r for r in tests if re.split("[=><]", r)[0] in FOR_TESTS]
    return [f"dure=={project['project']['version']}", *chosen]


def _pip_download(what: str, arguments: list[str], wheels: Path) -> None:
    platforms = [f"--platform={name}_aarch64" for name in PLATFORMS]
    chosen = [f"--python-version={PYTHON}", "--implementation=cp", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", *platforms, *chosen]
    run(what, [*command, "--dest", wheels, *arguments], wheels / "download.log")
