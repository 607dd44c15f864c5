"""Which weights are repacked: compared with what llama.cpp itself says when it loads them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dure.engine.compute.llama import has_amx
from dure.hardware.probe import platform
from dure.model.gguf import open_gguf
from dure.plan.kernels import is_quick, is_repacked, repeats, slow_bytes
from tests.support.dure_process import Dure
from tests.support.random_models import SHAPES, write_random_model

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
LOADS = """
import ctypes, sys
import llama_cpp.llama_cpp as lib
write = lib.llama_log_callback(lambda level, text, user: sys.stdout.write(text.decode()))
lib.llama_log_set(write, ctypes.c_void_p(0))
lib.llama_backend_init()
params = lib.llama_model_default_params()
params.load_mode = lib.LLAMA_LOAD_MODE_NONE
assert lib.llama_model_load_from_file(sys.argv[1].encode(), params)
"""
PI_5 = ("asimd", "asimddp", "fphp")
N100 = ("avx", "avx2", "fma", "f16c", "avx_vnni")


@pytest.mark.skipif(has_amx(), reason="llama.cpp was built with AMX, and repacks for that")
@pytest.mark.parametrize(
    "type_name", ["Q2_K", "Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4", "F16"]
)
def test_llama_cpp_repacks_what_is_said(tmp_path: Path, type_name: str) -> None:
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES["qwen3"], type_name)
    done = subprocess.run(
        [sys.executable, "-c", LOADS, path], capture_output=True, text=True, check=True
    )
    sizes = re.findall(r"CPU_REPACK model buffer size = +([0-9.]+) MiB", done.stdout)
    features = platform({}, lambda _: "").features
    with open_gguf(path) as gguf:
        expected = sum(
            tensor.size_bytes
            for name, tensor in gguf.tensors.items()
            if len(tensor.shape) > 1
            and name != "token_embd.weight"
            and is_repacked(tensor.type.name, tensor.shape[1], features)
        )
    assert sum(map(float, sizes)) == pytest.approx(expected / (1 << 20), abs=0.02)


@pytest.mark.parametrize(
    ("type_name", "rows", "on_pi", "on_pc"),
    [
        ("Q4_0", 4096, True, True),
        ("Q4_0", 4, True, False),
        ("Q6_K", 4096, True, False),
        ("Q2_K", 4096, False, False),
        ("IQ2_XS", 4096, False, False),
        ("F16", 4096, False, False),
        ("Q4_K", 4097, False, False),
    ],
)
def test_boards_and_desktops_differ(type_name: str, rows: int, on_pi: bool, on_pc: bool) -> None:
    assert is_repacked(type_name, rows, PI_5) == on_pi
    assert is_repacked(type_name, rows, N100) == on_pc


@pytest.mark.parametrize(
    ("type_name", "rows", "on_pi", "on_pc"),
    [
        ("Q4_0", 4096, True, True),
        ("Q6_K", 4096, True, True),
        ("Q8_0", 4096, True, True),
        ("Q8_0", 4104, True, True),
        ("Q5_K", 4096, True, True),
        ("Q2_K", 4096, True, True),
        ("Q4_K", 4097, True, False),
        ("IQ4_XS", 4096, True, True),
        ("IQ3_S", 4096, False, False),
        ("F16", 4096, False, False),
    ],
)
def test_our_kernels_count_where_they_are(
    type_name: str, rows: int, on_pi: bool, on_pc: bool
) -> None:
    assert is_quick(type_name, rows, PI_5) == on_pi
    assert is_quick(type_name, rows, N100) == on_pc
    assert not is_quick(type_name, rows, ())


def test_show_says_what_is_slower_here(tmp_path: Path) -> None:
    dure = Dure(tmp_path)
    told = json.loads(dure("show", DEMO, "--json").stdout)["slower_here"]
    with open_gguf(DEMO) as gguf:
        types = {tensor.type.name for tensor in gguf.tensors.values()}
    assert set(told) <= types
    assert "slower here" in dure("show", DEMO).stdout


def test_slow_bytes_are_those_of_matrices_without_quick_kernels(tmp_path: Path) -> None:
    """By type; vectors and the table of embeddings do not count."""
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES["qwen3"], "Q4_K")
    with open_gguf(path) as model:
        tensors = list(model.tensors.values())
    matrices = [t for t in tensors if len(t.shape) > 1 and t.name != "token_embd.weight"]
    assert slow_bytes(tensors, ()) == {"Q4_K": sum(t.size_bytes for t in matrices)}
    assert slow_bytes(tensors, N100) == {}


@pytest.mark.parametrize(
    ("type_name", "features", "expected"),
    [
        *((name, N100, True) for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q6_K")),
        *((name, N100, True) for name in ("Q2_K", "Q3_K", "Q5_K", "IQ4_XS", "IQ4_NL", "MXFP4")),
        ("Q2_K", (*N100, "avx512f"), True),  # llama.cpp repacks it there
        ("Q4_K", N100, False),  # its vocabulary of 1,003 rows is not repacked
        ("Q4_0", PI_5, False),
    ],
)
def test_which_models_repeat_a_token_in_any_step(
    tmp_path: Path, type_name: str, features: tuple[str, ...], expected: bool
) -> None:
    """What `tests/engine/test_same_alone.py` finds of types that are ours."""
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES["qwen3"], type_name)
    with open_gguf(path) as gguf:
        assert repeats(gguf.tensors, features) is expected
