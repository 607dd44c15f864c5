"""What a program for ARM executes between two marks, and how many cycles a core takes for it: a prediction.

Knows: QEMU's log, which names every executed instruction, the disassembly, and `llvm-mca`, which simulates
the pipeline of a core with them. Refuses to know what the program computes. Nothing of it is measured on a
board: llvm-mca takes all data from the first cache, and all branches as foreseen.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from measure import BenchError

TIMEOUT_S = 300.0
BEGIN, END = b" begin_measured\n", b" end_measured\n"
NEEDED = {
    "qemu-aarch64-static": "qemu-user-static",
    "aarch64-linux-gnu-gcc": "g++-aarch64-linux-gnu",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "aarch64-linux-gnu-objdump": "g++-aarch64-linux-gnu",
}
"""Programs by their names, and the packages of Debian that have them."""


@dataclass(frozen=True, slots=True)
class Core:
    """A core: how is compiled for it, what emulates it, and which of llvm-mca's models stands for it."""

    name: str
    title: str
    flags: tuple[str, ...]
    emulated: str
    model: str
    model_title: str
    features: frozenset[str]  # as Linux calls them
    has_dot_product: bool = True


CORES = {
    core.name: core
    for core in (
        Core(
            "cortex-a72",
            "Cortex-A72 (Raspberry Pi 4): plain NEON",
            ("-mcpu=cortex-a72",),
            "cortex-a72",
            "cortex-a72",
            "LLVM's Cortex-A57, which it uses for the Cortex-A72",
            frozenset(),
            has_dot_product=False,
        ),
        Core(
            "cortex-a76",
            "Cortex-A76 (Raspberry Pi 5): dot product",
            ("-mcpu=cortex-a76",),
            "cortex-a76",
            "neoverse-n1",
            "LLVM's Neoverse N1, the Cortex-A76's twin in servers: LLVM has no own model of it",
            frozenset({"asimddp"}),
        ),
        Core(
            "i8mm",
            "ARMv8.2 with dot product and i8mm (Neoverse V1)",
            ("-march=armv8.2-a+dotprod+i8mm",),
            "max",
            "neoverse-v1",
            "LLVM's Neoverse V1",
            frozenset({"asimddp", "i8mm"}),
        ),
    )
}


def program(name: str) -> str:
    """Return the path of a program. Raises BenchError."""
    found = shutil.which(name)
    if found is None:
        package = NEEDED.get(name, name)
        raise BenchError(f"`{name}` not found: apt install {package}")
    return found


@cache
def llvm_mca() -> str:
    """Return the path of llvm-mca: LLVM_MCA, or the newest that is installed. Raises BenchError."""
    named = os.environ.get("LLVM_MCA")
    if named:
        return named
    versions = [f"llvm-mca-{version}" for version in range(30, 15, -1)]
    found = next((path for name in versions if (path := shutil.which(name))), None)
    if found is None:
        raise BenchError(
            "no llvm-mca of version 16 or newer, the first with a model of the Neoverse N1: "
            "apt install llvm-19, or set LLVM_MCA to its path"
        )
    return found


def version(name: str) -> str:
    """Return the version that a program prints. Raises BenchError."""
    text = output([name, "--version"]).decode()
    found = re.search(r"\d+\.\d+[.\d]*", text)
    return found[0] if found else text.strip().splitlines()[0]


def output(argv: Sequence[str], given: bytes = b"", accepted: Sequence[int] = (0,)) -> bytes:
    """Return what a program prints. Raises BenchError with its last words if it fails."""
    done = subprocess.run(argv, input=given, capture_output=True, check=False, timeout=TIMEOUT_S)
    if done.returncode not in accepted:
        said = "\n  ".join(done.stderr.decode(errors="replace").strip().splitlines()[-6:])
        raise BenchError(f"`{' '.join(argv)}` ended with status {done.returncode}: {said}")
    return done.stdout


# ---------------------------------------------------------------- what is executed


def executed(binary: Path, arguments: Sequence[str], core: Core) -> list[str] | None:
    """Return the addresses of the instructions between the marks, in their order, as hexadecimal digits.

    None if the program says that it cannot compute what it is asked for (status 3). Raises BenchError.
    """
    argv = [program("qemu-aarch64-static"), "-cpu", core.emulated, str(binary), *arguments]
    # Each instruction is a block of its own, which is looked up, and thus logged, each time.
    argv[1:1] = ["-singlestep", "-d", "exec,nochain"]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=TIMEOUT_S)
    if done.returncode == 3:
        return None
    if done.returncode != 0:
        raise BenchError(f"`{' '.join(argv)}` ended with status {done.returncode}")
    log = done.stderr
    begin, end = log.rfind(BEGIN), log.find(END)
    if begin < 0 or end < 0:
        raise BenchError(f"the log of `{argv[0]}` does not show both marks of {binary.name}")
    lines = log[begin + len(BEGIN) : end].decode().splitlines()[:-1]
    return [line.split("/", 2)[1].lstrip("0") for line in lines if line.startswith("Trace")]


_LINE = re.compile(r"^ *([0-9a-f]+):\t(.*)$", re.MULTILINE)
_LEAVES = re.compile(r"(bl|blr|br|ret)\b")
_ATOMIC = re.compile(r"(cas|swp|ldadd|ldclr|ldeor|ldset)[a-z]*\t")
_AIMED = re.compile(r"(b|b\.\w+|cbn?z|tbn?z|adrp?)\t")


def disassembly(binary: Path) -> dict[str, str]:
    """Return a program's instructions by their addresses, for llvm-mca. Raises BenchError."""
    argv = [program("aarch64-linux-gnu-objdump"), "-d", "--no-show-raw-insn", str(binary)]
    return {at: readable(text) for at, text in _LINE.findall(output(argv).decode())}


def readable(instruction: str) -> str:
    """Return an instruction without comments and addresses: where a branch leads does not matter.

    Calls and returns become plain branches: llvm-mca would take 100 cycles for each. What threads agree
    with, a few times for a whole matrix, is left out, as not all models know it.
    """
    text = re.sub(r"\s*(//.*|<.*)$", "", instruction)
    if _LEAVES.match(text):
        return "b\t#4"
    if _ATOMIC.match(text):
        return "nop"
    if _AIMED.match(text):
        return re.sub(r"[0-9a-f]+$", "#4096" if text.startswith("adrp") else "#4", text)
    return text


# ---------------------------------------------------------------- cycles


def cycles(instructions: Sequence[str], core: Core) -> int:
    """Return the cycles that a core takes for instructions, by llvm-mca's model. Raises BenchError."""
    if not instructions:
        return 0
    argv = [
        llvm_mca(), "-mtriple=aarch64-linux-gnu", f"-mcpu={core.model}", "-iterations=1",
        "-instruction-info=false", "-resource-pressure=false",
    ]  # fmt: skip
    said = output(argv, "\n".join([*instructions, ""]).encode()).decode()
    found = re.search(r"^Total Cycles: *(\d+)$", said, re.MULTILINE)
    if found is None:
        raise BenchError(f"`{argv[0]}` printed no cycles: {said[:300]!r}")
    return int(found[1])
