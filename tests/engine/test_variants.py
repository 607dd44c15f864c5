"""Which of several native libraries a processor gets."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dure.engine.compute.variants import chosen_of, installed
from dure.errors import ResourceError, UsageError

X86 = ("x86-64-v4-vnni", "x86-64-v3-vnni", "x86-64-v4", "x86-64-v3", "x86-64-v2")
ARM = ("armv8-a-i8mm", "armv8-a-dotprod", "armv8-a")
A76 = "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
V2 = "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"
V3 = f"{V2} abm avx avx2 bmi1 bmi2 f16c fma movbe"
V4 = f"{V3} avx512bw avx512cd avx512dq avx512f avx512vl"


@pytest.mark.parametrize(
    ("features", "name"),
    [
        (V2, "x86-64-v2"),
        (V3, "x86-64-v3"),
        (f"{V3} avx_vnni", "x86-64-v3-vnni"),
        (V4, "x86-64-v4"),
        (f"{V4} avx512_vnni", "x86-64-v4-vnni"),
        (f"{V4} avx512_vnni avx_vnni", "x86-64-v4-vnni"),
        (V4.replace("avx512vl", ""), "x86-64-v3"),
    ],
)
def test_a_processor_gets_the_best_that_it_runs(features: str, name: str) -> None:
    assert chosen_of(X86, features.split()) == name


@pytest.mark.parametrize(
    ("features", "name"),
    [
        ("fp asimd evtstrm crc32 cpuid", "armv8-a"),
        (A76, "armv8-a-dotprod"),
        (f"{A76} i8mm", "armv8-a-i8mm"),
    ],
)
def test_a_board_gets_the_best_that_it_runs(features: str, name: str) -> None:
    assert chosen_of(ARM, features.split()) == name


def test_one_may_be_wanted_if_the_processor_runs_it() -> None:
    assert chosen_of(X86, V4.split(), "x86-64-v3") == "x86-64-v3"
    with pytest.raises(ResourceError, match="lacks avx512_vnni: unset DURE_NATIVE"):
        chosen_of(X86, V4.split(), "x86-64-v4-vnni")
    with pytest.raises(UsageError, match="DURE_NATIVE=sse9: installed here: x86-64-v4-vnni"):
        chosen_of(X86, V4.split(), "sse9")


def test_a_processor_that_runs_none_is_told_what_it_lacks() -> None:
    with pytest.raises(ResourceError, match="needs popcnt, which this processor lacks: build dure"):
        chosen_of(X86, V2.replace("popcnt", "").split())
    with pytest.raises(ResourceError, match="is missing: install dure again"):
        chosen_of((), V4.split())


@pytest.mark.parametrize("names", [("native",), ("armv8-a",)])
def test_what_needs_nothing_runs_where_no_features_are_known(names: tuple[str, ...]) -> None:
    assert chosen_of(names, ()) == names[0]


def test_an_unknown_name_in_the_environment_is_an_error_with_the_known_ones() -> None:
    """Told by a command as any other error is."""
    command = [
        sys.executable,
        "-m",
        "dure.cli.main",
        "run",
        "models/dure-demo.gguf",
        "Hello",
        "-n",
        "1",
    ]
    environment = {**os.environ, "DURE_NATIVE": "sse9"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode != 0
    assert f"DURE_NATIVE=sse9: installed here: {', '.join(installed())}" in done.stderr
    assert "Traceback" not in done.stderr
