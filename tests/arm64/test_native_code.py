"""The native code for arm64, as far as a cross compiler and QEMU alone can tell; it takes seconds."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from tests.arm64.board import BOARDS, Board

NATIVE = Path(__file__).parents[2] / "native"
COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64-static"
# As in CMakeLists.txt; warnings are errors here.
FLAGS = (
    "-std=gnu11",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-Werror",
)
EXACT = "-ffp-contract=off"
SEEN_BY_ALL = (
    Path(llama_cpp.__file__).parents[1] / "include",
    Path(sysconfig.get_path("data")) / "include",
)
N_VECTORS, N_VALUES = 20, 64 * 32  # as in wire_bits.c

pytestmark = pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None,
    reason="apt install gcc-aarch64-linux-gnu qemu-user-static",
)


@pytest.mark.parametrize("board", BOARDS.values(), ids=list(BOARDS))
def test_all_of_it_compiles_without_a_warning(board: Board, tmp_path: Path) -> None:
    includes = [f"-I{folder}" for folder in SEEN_BY_ALL]
    sources = sorted(NATIVE.glob("*.c"))
    words: list[str | Path] = [
        COMPILER,
        f"-march={board.arch}",
        *FLAGS,
        *includes,
        "-fPIC",
        "-c",
        *sources,
    ]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.o"))) == len(sources)


def sums(compiler: str, flag: str, directory: Path, vectors: bytes, *start: str) -> bytes:
    """Compile `wire_bits.c` and return what it writes for these vectors."""
    program = directory / compiler
    sources = map(str, [Path(__file__).with_name("wire_bits.c"), NATIVE / "wire.c"])
    flags = [flag, *FLAGS, EXACT, f"-I{NATIVE}", "-static"]
    subprocess.run([compiler, *flags, "-o", str(program), *sources, "-lm"], check=True)
    done = subprocess.run([*start, program], input=vectors, stdout=subprocess.PIPE, check=True)
    return done.stdout


@pytest.mark.parametrize("board", BOARDS.values(), ids=list(BOARDS))
def test_sums_have_the_same_bits_as_on_this_processor(board: Board, tmp_path: Path) -> None:
    """Encoded and added, over the whole range of float32, with denormals, infinities and NaN."""
    random = np.random.default_rng(7)
    exponents = random.uniform(-44, 38, (N_VECTORS, N_VALUES // 32, 1))
    values = random.standard_normal((N_VECTORS, N_VALUES // 32, 32)) * 10.0**exponents
    with np.errstate(over="ignore"):
        vectors = values.astype(np.float32)
    vectors[-1, :4, 3] = (np.inf, -np.inf, np.nan, 0)
    vectors[0, 5] = 0
    data = vectors.tobytes()
    emulated = (EMULATOR, "-cpu", board.cpu)
    there = sums(COMPILER, f"-march={board.arch}", tmp_path, data, *emulated)
    here = sums("cc", "-march=native", tmp_path, data)
    block = N_VALUES // 32 * 34
    assert len(here) == N_VECTORS * (block + 2 * 4 * N_VALUES)
    assert there == here
