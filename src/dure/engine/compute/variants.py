"""Choose among the native libraries that are installed the one for this processor.

A wheel that is given to others has one for each level of processors; what is built where it runs has a
single one, for the very processor. Knows their names and what they need, as CMakeLists.txt builds them;
refuses to know what is in them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from dure.errors import ResourceError, UsageError
from dure.hardware.probe import processor_features

__all__ = ["NATIVE", "VARIABLE", "best", "chosen", "chosen_of", "file_of", "installed"]

NATIVE = "native"
"""The name of a library that was built for the processor that it was built on."""

VARIABLE = "DURE_NATIVE"
_V2 = ("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3")
_V3 = (*_V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
_ARM_V8_2 = ("atomics", "asimdrdm", "crc32")
# What each needs of a processor, as Linux names it; the best first, of every architecture.
_NEEDED: Mapping[str, tuple[str, ...]] = {
    NATIVE: (),
    "x86-64-v4-vnni": (*_V4, "avx512_vnni"),
    "x86-64-v3-vnni": (*_V3, "avx_vnni"),
    "x86-64-v4": _V4,
    "x86-64-v3": _V3,
    "x86-64-v2": _V2,
    "armv8-a-i8mm": (*_ARM_V8_2, "asimddp", "i8mm"),
    "armv8-a-dotprod": (*_ARM_V8_2, "asimddp"),
    "armv8-a": (),
}


def file_of(name: str, library: str = "dure_native", folder: Path = Path(__file__).parent) -> Path:
    """Return where the library of this name is, if it is installed.

    library: which of those that CMakeLists.txt builds for each processor. folder: where it installs it.
    """
    return folder / (f"lib{library}.so" if name == NATIVE else f"lib{library}-{name}.so")


def installed() -> tuple[str, ...]:
    """Return the names of the libraries that are installed, the best first."""
    return tuple(name for name in _NEEDED if file_of(name).exists())


def chosen() -> str:
    """Return which library this process uses. Raises as `chosen_of` does."""
    return chosen_of(installed(), processor_features(), os.environ.get(VARIABLE, ""))


def best() -> str:
    """Return which library this process would use if nobody wanted another. Raises as `chosen_of` does."""
    return chosen_of(installed(), processor_features())


def chosen_of(names: Sequence[str], features: Collection[str], wanted: str = "") -> str:
    """Return the best of some libraries that a processor runs, or the one that is wanted.

    names: the best first. features: the processor's, as Linux names them.
    Raises ResourceError if it runs none of them or lacks what the wanted one needs, UsageError if that
    is not among them.
    """
    if not names:
        raise ResourceError("dure's native library is missing", "install dure again")
    if wanted and wanted not in names:
        raise UsageError(f"{VARIABLE}={wanted}", f"installed here: {', '.join(names)}")
    lacking = {name: sorted(set(_NEEDED[name]) - set(features)) for name in names}
    if wanted and lacking[wanted]:
        raise ResourceError(
            f"{VARIABLE}={wanted}, and this processor lacks {', '.join(lacking[wanted])}",
            f"unset {VARIABLE}: the best that it runs is chosen then",
        )
    runs = [name for name in names if not lacking[name]]
    if not runs:
        raise ResourceError(
            f"dure's native library needs {', '.join(lacking[names[-1]])}, which this processor lacks",
            "build dure where it runs: `pip install --no-binary dure dure`",
        )
    return wanted or runs[0]
