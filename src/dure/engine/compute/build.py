"""Check that llama.cpp, as it was built here, runs on this machine's processor.

It is built for the processor that it is built on. A disk that is put into another board, or an image that
is copied to it, may hold instructions that the other one does not know; it would end without a word.
Knows llama.cpp's names of features and Linux's; refuses to know how to build it again.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Collection, Mapping

from dure.errors import EngineError

__all__ = ["problem_of_build", "system_info"]

ASK_S = 60.0  # a slow board reads the library from its card
_ASK = "import llama_cpp; print(llama_cpp.llama_print_system_info().decode())"
# What llama.cpp says it was built with, and how Linux calls that: any of these will do.
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "AVX": ("avx",),
    "AVX_VNNI": ("avx_vnni",),
    "AVX2": ("avx2",),
    "FMA": ("fma",),
    "F16C": ("f16c",),
    "BMI2": ("bmi2",),
    "AVX512": ("avx512f",),
    "AVX512_VBMI": ("avx512vbmi",),
    "AVX512_VNNI": ("avx512_vnni",),
    "AVX512_BF16": ("avx512_bf16",),
    "AMX_INT8": ("amx_int8",),
    "NEON": ("asimd", "neon"),
    "DOTPROD": ("asimddp",),
    "MATMUL_INT8": ("i8mm",),
    "FP16_VA": ("asimdhp", "fphp"),
    "SVE": ("sve",),
}


def problem_of_build(features: Collection[str]) -> str:
    """Return why llama.cpp does not run on a processor with these features; "" if it does."""
    try:
        return lacks(system_info(), features)
    except EngineError as error:
        return error.problem


def system_info() -> str:
    """Return what llama.cpp says that it was built with, `AVX2 = 1 | FMA = 1`.

    It is started in a process of its own, which may be killed by the first unknown instruction. Raises
    EngineError if it does not start.
    """
    asked = [sys.executable, "-c", _ASK]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=ASK_S, check=False)
    except subprocess.TimeoutExpired:
        raise EngineError("llama.cpp does not start in a minute") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EngineError(f"llama.cpp does not start ({last})")
    return done.stdout


def lacks(system_info: str, features: Collection[str]) -> str:
    """Return what a build needs that is not among a processor's features; "" if it has all, or if none of
    its features is known. system_info: as llama.cpp prints it, `AVX2 = 1 | FMA = 1`.
    """
    built = re.findall(r"(\w+) = 1\b", system_info)
    missing = [name for name in built if name in _NEEDED and not set(_NEEDED[name]) & set(features)]
    if not features or not missing:
        return ""
    return f"llama.cpp was built for another processor, with {', '.join(missing)}"
