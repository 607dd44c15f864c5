"""The wheel that is given to others: what is in it, and each of its native libraries at work.

`make test-packages` installs it into an empty environment; here it is unpacked, which takes less.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packages.build import problems_of

from dure.engine.compute.variants import chosen_of
from dure.errors import ResourceError
from dure.hardware.probe import processor_features
from tests.support.cluster_serving import GREEDY
from tests.support.dure_process import DURE

pytest.importorskip("build", reason="pip install --group test")
pytestmark = pytest.mark.skipif(
    os.uname().machine not in {"x86_64", "aarch64"}, reason="there are wheels for x86-64 and arm64"
)
PROJECT = Path(__file__).parents[2]
ARCHITECTURE = os.uname().machine
NAMES = {
    "x86_64": ("x86-64-v4-vnni", "x86-64-v4", "x86-64-v3-vnni", "x86-64-v3", "x86-64-v2"),
    "aarch64": ("armv8-a-i8mm", "armv8-a-dotprod", "armv8-a"),
}.get(ARCHITECTURE, ())
# What the compiler makes of the kernels for each: products of few and of many vectors, attention.
KERNELS = (
    "tests/engine/test_matvec.py::test_zeros_give_zero_and_llama_cpp_agrees",
    "tests/engine/test_matmul.py",
    "tests/engine/test_attention.py",
    "tests/engine/test_scale.py",
    "tests/tune/optimizer/test_adamw_equality.py",
)
QUICK = "zeros or wide or prompt or one_token or scale or torchs"


@pytest.fixture(name="wheel", scope="module")
def wheel_(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds it."""
    return built(ARCHITECTURE, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(name="unpacked", scope="module")
def unpacked_(wheel: Path) -> Path:
    """A folder to import it from."""
    with zipfile.ZipFile(wheel) as zipped:
        zipped.extractall(wheel.parent / "unpacked")
    return wheel.parent / "unpacked"


def built(what: str, out: Path) -> Path:
    """Run the project's own script; return the package."""
    script = PROJECT / "tools" / "packages" / "build.py"
    words = [sys.executable, str(script), what, "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (package,) = out.glob("dure-*")
    return package


def runs_here(name: str) -> bool:
    """Tell whether this processor runs a library."""
    try:
        return chosen_of((name,), processor_features()) == name
    except ResourceError:
        return False


def environment(unpacked: Path, name: str) -> dict[str, str]:
    """Return one in which dure is the unpacked wheel and computes with this library."""
    return {**os.environ, "PYTHONPATH": str(unpacked), "DURE_NATIVE": name}


def test_its_name_says_what_it_needs_and_its_libraries_hold_to_it(wheel: Path) -> None:
    """Any Python 3; a C library as old as the name says; MPI and ggml by name, and nothing else."""
    assert wheel.name.endswith(f"-py3-none-manylinux_2_34_{ARCHITECTURE}.whl")
    assert problems_of(wheel) == []


@pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-gcc") is None, reason="apt install gcc-aarch64-linux-gnu"
)
def test_one_for_arm64_is_built_without_its_libraries(tmp_path: Path) -> None:
    """By a cross compiler. It was run in the container for arm64, emulated: docs/LOG.md."""
    wheel = built("aarch64", tmp_path)
    assert wheel.name.endswith("-py3-none-manylinux_2_34_aarch64.whl")
    with zipfile.ZipFile(wheel) as zipped:
        libraries = sorted(name for name in zipped.namelist() if name.endswith(".so"))
        machines = {zipped.read(library)[18:20] for library in libraries}
    levels = ("armv8-a-dotprod.so", "armv8-a-i8mm.so", "armv8-a.so")
    names = (*(f"libdure_native-{level}" for level in levels), "libdure_optimizer-armv8-a.so")
    assert tuple(Path(library).name for library in libraries) == names
    assert machines == {(183).to_bytes(2, "little")}  # EM_AARCH64
    assert problems_of(wheel) == []


def test_all_of_the_package_is_in_it_and_nothing_else(wheel: Path) -> None:
    """The page too, if it was built."""
    with zipfile.ZipFile(wheel) as zipped:
        names = {name for name in zipped.namelist() if ".dist-info/" not in name}
    libraries = {f"dure/engine/compute/libdure_native-{name}.so" for name in NAMES}
    levels = {re.sub("-(vnni|i8mm|dotprod)$", "", name) for name in NAMES}
    libraries |= {f"dure/tune/optimizer/libdure_optimizer-{name}.so" for name in levels}
    source = PROJECT / "src"
    files = {str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert names == files | libraries


@pytest.mark.parametrize("name", NAMES)
def test_each_library_writes_the_same_story(name: str, unpacked: Path, tmp_path: Path) -> None:
    """On two ranks, and as llama.cpp's own kernels do for the lowest level."""
    if not runs_here(name):
        pytest.skip("this processor does not run it")
    words = [*DURE, "run", "models/dure-demo.gguf", "Tell me a story about a goat.", "--ranks", "2"]
    words += [*GREEDY, "-n", "24"]
    told = subprocess.run(
        words,
        cwd=PROJECT,
        env={**environment(unpacked, name), "DURE_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    here = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert told.stdout == here.stdout


@pytest.mark.parametrize("name", [name for name in NAMES if name != "x86-64-v2"])
def test_kernels_of_each_library_compute_what_they_should(name: str, unpacked: Path) -> None:
    """The tests of the kernels, run with each. The lowest level of x86-64 leaves these to llama.cpp."""
    if not runs_here(name):
        pytest.skip("this processor does not run it")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *KERNELS, "-k", QUICK]
    done = subprocess.run(
        words,
        cwd=PROJECT,
        env=environment(unpacked, name),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_the_source_is_enough_to_build_from(tmp_path: Path) -> None:
    """It has the native code, and no tests or models."""
    archive = built("sdist", tmp_path)
    shutil.unpack_archive(archive, tmp_path, filter="data")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    native = {str(path.relative_to(PROJECT)) for path in (PROJECT / "native").iterdir()}
    page = PROJECT / "src" / "dure" / "serve" / "page" / "static"
    built_page = {str(path.relative_to(PROJECT)) for path in page.rglob("*") if path.is_file()}
    assert native | built_page | {"CMakeLists.txt", "pyproject.toml", "LICENSE"} <= there
    assert not [name for name in there if name.startswith(("tests/", "models/", "bench/", "docs/"))]
