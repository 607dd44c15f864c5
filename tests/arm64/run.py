"""Test dure on boards with arm64, emulated: any Linux will do, with root.

    sudo make test-arm64
    sudo make test-arm64 BOARDS=pi5 ARGS="-k chat"

It makes Debian for arm64 in build/arm64, compiles llama.cpp and dure for each board, installs them there,
and runs tests. What is finished is kept, so a run that was stopped goes on where it was.
The exit status is 0 if all tests of all boards pass, 1 if one fails, and 2 if they cannot run.

Speed in emulation means nothing. Sensors, clocks and firmware are not emulated.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tests.arm64.board import BOARDS, Board
from tests.arm64.commands import Arm64Error, run, say
from tests.arm64.debian import CACHE, PROJECT, ROOT, inside, make_root
from tests.arm64.emulator import arm64_programs
from tests.arm64.wheels import build_and_download, requirements

# Run on a board as they are: what native code computes there.
ON_BOARD = (
    "tests/arm64/test_on_board.py",
    "tests/arm64/test_optimizer_on_board.py",
    "tests/engine/test_all_reduce.py",
    "tests/engine/test_attention.py",
    "tests/engine/test_scale.py",
    "tests/model/test_ggml.py",
)
FROM_OUTSIDE = "tests/arm64/test_emulated.py"
PROGRAMS = {  # and Debian's packages that bring them
    "debootstrap": "debootstrap",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "ip": "iproute2",
    "qemu-aarch64-static": "qemu-user-static",
    "unshare": "util-linux",
}
NO_TESTS = 5  # pytest's status if -k left none


def main() -> int:
    """Do what the command line names; return the exit status."""
    arguments = _command_line().parse_args()
    boards = [BOARDS[name] for name in arguments.boards or BOARDS]
    if os.geteuid() != 0:
        sys.stderr.write("test-arm64: mounts and network namespaces need root: use sudo\n")
        return 2
    if platform.machine() == "aarch64":
        sys.stderr.write("test-arm64: this machine is arm64, so `make test` is what tests it\n")
        return 2
    if missing := [package for name, package in PROGRAMS.items() if not shutil.which(name)]:
        sys.stderr.write(f"test-arm64: programs are missing: apt install {' '.join(missing)}\n")
        return 2
    began, failed = time.monotonic(), []
    try:
        with arm64_programs():
            for board in boards:
                _prepare(board)
                failed += [board.name] if _test(board, arguments.pytest) else []
    except Arm64Error as error:
        sys.stderr.write(f"test-arm64: {error}\n")
        return 2
    minutes = (time.monotonic() - began) / 60
    names = ", ".join(board.name for board in boards)
    ended = f"failed on {', '.join(failed)}" if failed else "passed"
    say(f"{names}: {ended}, {minutes:.0f} min")
    return 1 if failed else 0


def _command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("boards", nargs="*", choices=[*BOARDS, []], metavar="BOARD",
                        help=f"{', '.join(BOARDS)}; all, if none is named")  # fmt: skip
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], metavar="ARGUMENT",
                        help="pass the rest to pytest")  # fmt: skip
    return parser


def _prepare(board: Board) -> None:
    say(f"{board.name}: prepare ({board.arch}, emulated as {board.cpu})")
    CACHE.mkdir(parents=True, exist_ok=True)
    make_root()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    wheels = CACHE / "wheels" / board.name
    build_and_download(board, project, wheels)
    _install(board, requirements(project), wheels)


def _install(board: Board, wanted: list[str], wheels: Path) -> None:
    """Install the wheels with the root's own pip; only dure's if the others are installed."""
    note = ROOT / board.venv.relative_to("/") / "installed"
    there = "\n".join(sorted(wheel.name for wheel in wheels.glob("*.whl")))
    log = CACHE / f"install-{board.name}.log"
    options = ("--no-compile", "--no-index", "--find-links", wheels)  # compiled when first imported
    pip: list[str | Path] = [board.venv / "bin" / "pip", "install", *options]
    if note.exists() and note.read_text() == there:
        pip += ["--no-deps", "--force-reinstall"]
        wanted = wanted[:1]
    else:
        run(
            "make an environment, emulated",
            inside(board, ["python3", "-m", "venv", board.venv]),
            log,
        )
    run("install, emulated", inside(board, [*pip, *wanted]), log)
    note.write_text(there)


def _test(board: Board, arguments: Sequence[str]) -> bool:
    """Run the tests in the root, then those that look at it from outside; return if any failed."""
    say(f"{board.name}: test")
    python = inside(board, [board.venv / "bin" / "python"])
    options = ["-m", "pytest", "-p", "no:cacheprovider", "--durations=0", *arguments]
    environment = {**os.environ, "DURE_ARM64_BOARD": board.name}
    commands = [[*python, *options, *ON_BOARD], [sys.executable, *options, FROM_OUTSIDE]]
    statuses = [
        subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode
        for command in commands
    ]
    return any(status not in {0, NO_TESTS} for status in statuses)


if __name__ == "__main__":
    sys.exit(main())
