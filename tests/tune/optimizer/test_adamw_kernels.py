"""The kernels of AdamW compute the same at every level of processors, emulated ones too."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dure.engine.compute.variants import chosen_of
from dure.errors import ResourceError
from dure.hardware.probe import processor_features
from dure.tune.optimizer.native import Format

NATIVE = Path(__file__).parents[3] / "native"
FLAGS = ("-std=gnu11", "-O1", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
LEVELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4", "armv8-a")
CROSS = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64-static"
N_VALUES, MOVED = 3000, 40 * 0.01  # as in adamw_steps.c: what a weight moves by at most, roughly


def weights(level: str, folder: Path) -> np.ndarray:
    """Compile for a level and run: float32 [format, value]."""
    program = folder / level
    sources = [str(Path(__file__).with_name("adamw_steps.c")), str(NATIVE / "adamw.c")]
    compiler, start = ("cc", []) if level.startswith("x86") else (CROSS, [EMULATOR])
    words = [compiler, f"-march={level}", *FLAGS, f"-I{NATIVE}", "-static", "-o", str(program)]
    subprocess.run([*words, *sources, "-lm"], check=True)
    done = subprocess.run([*start, str(program)], stdout=subprocess.PIPE, check=True)
    return np.frombuffer(done.stdout, np.float32).reshape(len(Format), N_VALUES)


def runs_here(level: str) -> bool:
    if not level.startswith("x86"):
        return shutil.which(CROSS) is not None and shutil.which(EMULATOR) is not None
    try:
        return platform.machine() == "x86_64" and bool(chosen_of((level,), processor_features()))
    except ResourceError:
        return False


def test_every_level_ends_at_the_same_weights(tmp_path: Path) -> None:
    """After steps in all passes. In float32 to a few roundings; otherwise as near as states allow that are
    rounded up or down by a root's last digits.
    """
    found = {level: weights(level, tmp_path) for level in LEVELS if runs_here(level)}
    if len(found) < 2:
        pytest.skip("apt install gcc-aarch64-linux-gnu qemu-user-static")
    first, *others = found.values()
    for other in others:
        for format_, one, two in zip(Format, first, other, strict=True):
            difference = np.abs(one - two)
            if format_ in (Format.F32_F32, Format.BF16_F32):
                assert difference.max() <= 1e-6
            else:
                assert difference.mean() <= 0.005 * MOVED
                assert difference.max() <= 0.04 * MOVED
            assert np.isfinite(two).all()
