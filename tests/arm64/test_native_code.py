"""The native code for arm64, as far as a cross compiler and QEMU alone can tell; it takes seconds."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from tests.arm64.board import BOARDS, Board
from tests.arm64.products import all_products
from tests.support.products import close_to

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


@dataclass(frozen=True)
class Objects:
    """What the compiler makes of every native file for a board, and what it says."""

    board: Board
    folder: Path
    compiled: subprocess.CompletedProcess[str]


@pytest.fixture(name="objects", scope="module", params=BOARDS.values(), ids=list(BOARDS))
def objects_(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """Compiles them once for all tests."""
    board, folder = request.param, tmp_path_factory.mktemp("objects")
    includes = [f"-I{path}" for path in SEEN_BY_ALL]
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
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    return Objects(board, folder, done)


def test_all_of_it_compiles_without_a_warning(objects: Objects) -> None:
    assert objects.compiled.returncode == 0, objects.compiled.stderr
    assert len(list(objects.folder.glob("*.o"))) == len(list(NATIVE.glob("*.c")))


def test_products_with_few_vectors_have_the_bits_of_scalar_c(objects: Objects) -> None:
    """And are those of ggml's weights, but for rounding: every type in every layout that a board has."""
    program = objects.folder / "few_vectors"
    own = [objects.folder / name for name in ("arm_matvec.o", "activations.o")]
    includes = [f"-I{folder}" for folder in (NATIVE, *SEEN_BY_ALL)]
    flags = [f"-march={objects.board.arch}", *FLAGS, EXACT, "-static", *includes]
    source = Path(__file__).with_name("few_vectors.c")
    subprocess.run([COMPILER, *flags, "-o", program, source, *own, "-lm"], check=True)
    products = all_products(has_dots="dotprod" in objects.board.arch)
    done = subprocess.run(
        [EMULATOR, "-cpu", objects.board.cpu, program],
        input=b"".join(product.sent() for product in products),
        stdout=subprocess.PIPE,
        check=True,
    )
    found = np.frombuffer(done.stdout, np.float32)
    for product in products:
        shape = (2, *product.shape)
        ours, scalar = found[: np.prod(shape)].reshape(shape)
        found = found[np.prod(shape) :]
        assert ours.tobytes() == scalar.tobytes(), product.name
        assert ours == close_to(product.exact()), product.name
    assert not found.size


def test_products_with_many_vectors_have_the_bits_of_few(objects: Objects) -> None:
    """And those of scalar C: every type in every layout, with 1 to 9 vectors, with and without experts."""
    program = objects.folder / "many_vectors"
    names = ("arm_matmul_kernel.o", "arm_matvec.o", "activations.o")
    includes = [f"-I{folder}" for folder in (NATIVE, *SEEN_BY_ALL)]
    flags = [f"-march={objects.board.arch}", *FLAGS, EXACT, "-static", *includes]
    source = Path(__file__).with_name("many_vectors.c")
    own = [objects.folder / name for name in names]
    words: list[str | Path] = [COMPILER, *flags, "-o", program, source, *own, "-lm"]
    subprocess.run(words, check=True)
    emulated = [EMULATOR, "-cpu", objects.board.cpu, str(program)]
    done = subprocess.run(emulated, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


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
