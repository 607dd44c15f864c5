"""Whether llama.cpp's build fits the processor: told before it ends without a word."""

from __future__ import annotations

import pytest

from dure.engine.compute.build import lacks, problem_of_build
from dure.hardware.probe import platform

INTEL = (
    "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | FMA = 1 | AVX512 = 1 | AVX512_VNNI = 1 | OPENMP = 1 | "
)
PI_5 = "CPU : NEON = 1 | ARM_FMA = 1 | FP16_VA = 1 | DOTPROD = 1 | LLAMAFILE = 1 | REPACK = 1 | "


@pytest.mark.parametrize(
    ("built", "features", "missing"),
    [
        (INTEL, "avx avx2 fma avx512f avx512_vnni", ""),
        (INTEL, "avx avx2 fma", "with AVX512, AVX512_VNNI"),
        (PI_5, "asimd fphp asimdhp asimddp", ""),
        (PI_5, "asimd", "with FP16_VA, DOTPROD"),
        (PI_5, "", ""),  # a system that tells nothing of its processor
        ("CPU : SSE3 = 1 | AVX2 = 0 | ", "avx", ""),
    ],
)
def test_what_a_build_needs_is_compared_with_what_there_is(
    built: str, features: str, missing: str
) -> None:
    problem = lacks(built, features.split())
    assert problem.endswith(missing)
    assert bool(problem) == bool(missing)


def test_the_build_that_runs_these_tests_fits_their_machine() -> None:
    assert platform({}, problem_of_build).problem == ""
    assert "was built for another processor" in problem_of_build(["no such thing"])
