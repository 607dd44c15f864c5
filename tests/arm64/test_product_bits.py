"""Products with many vectors on ARM, as far as a cross compiler and QEMU alone can tell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.arm64.test_native_code import (
    COMPILER,
    EMULATOR,
    FLAGS,
    NATIVE,
    SEEN_BY_ALL,
    pytestmark,  # noqa: F401  what these need is the same
)

# What kernels are compiled for, as in CMakeLists.txt, and a processor that has no more than that.
LEVELS = {
    "armv8-a": "cortex-a72",
    "armv8.2-a+dotprod": "cortex-a76",
    "armv8.2-a+dotprod+i8mm": "max",
}


@pytest.mark.parametrize("arch", LEVELS)
def test_every_type_and_layout_comes_to_what_plain_c_comes_to(arch: str, tmp_path: Path) -> None:
    """Bit by bit: whole numbers within a block or a superblock, then floats in their order."""
    program = tmp_path / "program"
    sources = [Path(__file__).with_name("product_bits.c"), NATIVE / "arm_matmul_kernel.c"]
    includes = [f"-I{folder}" for folder in (NATIVE, *SEEN_BY_ALL)]
    flags = [f"-march={arch}", *FLAGS, "-ffp-contract=off", *includes, "-static"]
    words = [COMPILER, *flags, "-o", program, *sources, NATIVE / "activations.c", "-lm"]
    subprocess.run(words, check=True)
    emulated = [EMULATOR, "-cpu", LEVELS[arch], program]
    done = subprocess.run(emulated, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
