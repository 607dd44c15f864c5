"""Checks of what was installed: the system, llama.cpp, the number of threads, the agent."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dure.doctor.finding import SettingValue, Verdict, check, healthy, note, serious, warning
from dure.hardware.examination.condition import Condition

__all__ = ["CHECKS"]

# What llama.cpp is built with, and the processor's feature without which it cannot be. The first multiply
# and add 8-bit numbers; without them a quantized model runs at half the speed or less.
_PRODUCTS = {"DOTPROD": "asimddp", "AVX2": "avx2"}
_MORE = {"MATMUL_INT8": "i8mm", "AVX_VNNI": "avx_vnni", "AVX512_VNNI": "avx512_vnni"}
_BUILD = (
    "build it on this machine: `pip install --force-reinstall --no-binary llama-cpp-python "
    "llama-cpp-python` with the version that dure names"
)


@check(
    "word-size",
    "system",
    "A 32-bit program cannot hold a model of more than 2 to 3 GB, and dure's kernels are for 64 bits.",
    "user_bits",
    "architecture",
)
def word_size(condition: Condition) -> Iterator[Verdict]:
    """Judge whether the system is one of 64 bits."""
    if (bits := condition.user_bits) is None:
        return
    evidence = f"programs of {bits} bits, kernel {condition.architecture}"
    if bits == 64:
        yield healthy("the system is of 64 bits", evidence)
        return
    cure = "install the 64-bit system; every Raspberry Pi since the 3 can run it"
    yield serious("the system is of 32 bits", evidence, cure)


@check(
    "dot-products",
    "llama.cpp",
    "Without the processor's own products of 8-bit numbers, models run at half the speed or less.",
    "build",
    "features",
)
def dot_products(condition: Condition) -> Iterator[Verdict]:
    """Judge whether llama.cpp was built with what the processor has for products."""
    if not condition.build:
        return
    built = set(re.findall(r"(\w+) = 1\b", condition.build))
    lacking = {
        name: feature
        for name, feature in {**_PRODUCTS, **_MORE}.items()
        if feature in condition.features and name not in built
    }
    evidence = f"lacks {', '.join(lacking)}" if lacking else ", ".join(sorted(built))
    if not lacking:
        yield healthy("llama.cpp uses what the processor has", evidence)
    elif lacking.keys() & _PRODUCTS.keys():
        yield serious("llama.cpp was built without the processor's dot products", evidence, _BUILD)
    else:
        yield note("llama.cpp was built without some of the processor's products", evidence, _BUILD)


@check(
    "kernels",
    "dure's kernels",
    "dure's own kernels are built for several levels of processors, and the best is the quickest.",
    "kernels",
)
def kernels(condition: Condition) -> Iterator[Verdict]:
    """Judge whether the best of dure's native libraries is used."""
    if (found := condition.kernels) is None:
        return
    if found.used == found.best:
        yield healthy("dure uses its best kernels for this processor", found.used)
        return
    evidence = f"{found.used}, and {found.best} runs here"
    yield warning("dure uses slower kernels than it could", evidence, "unset DURE_NATIVE")


@check(
    "threads",
    "threads",
    "Threads wait for each other many times per token: more than there are cores take turns, and stop all.",
    "threads",
    "cores",
)
def threads(condition: Condition) -> Iterator[Verdict]:
    """Judge whether the numbers of threads fit the cores."""
    if (cores := condition.cores) is None or not condition.threads:
        return
    for one in condition.threads:
        evidence = f"{one.threads} threads for {cores} cores ({one.where})"
        cure = "leave out --threads: dure measures how many are fastest"
        if one.threads > cores:
            yield warning("there are more threads than cores", evidence, cure)
        elif one.threads * 2 < cores:
            few = f"{one.threads} of {cores} cores ({one.where})"
            yield note("most of the cores are not used", few, cure)
        else:
            yield healthy("the threads fit the cores", evidence)


@check(
    "agent",
    "agent",
    "Without its agent a node is missing from the cluster, until somebody starts it by hand.",
    "agent",
)
def agent(condition: Condition) -> Iterator[Verdict]:
    """Judge whether the node's agent runs, and starts with the machine."""
    if (state := condition.agent) is None:
        return
    evidence = f"{state.node}, port {state.port}, {state.unit or 'no service'}"
    if not state.is_listening:
        yield serious("the node's agent does not run", evidence, "`dure node` starts it")
    if state.is_enabled:
        yield healthy("the node's agent starts with the machine", evidence)
    elif state.unit:
        kind = "system" if state.unit.startswith(("/etc", "/usr", "/lib")) else "user"
        name = state.unit.rpartition("/")[2]
        cure = (
            f"`{'sudo systemctl' if kind == 'system' else 'systemctl --user'} enable --now {name}`"
        )
        fix = SettingValue(f"unit:{kind}:{name}", "enabled")
        yield warning("the node's agent does not start with the machine", evidence, cure, fix)
    else:
        cure = "`sudo dure node install --user USER`"
        yield warning("the node's agent does not start with the machine", evidence, cure)


CHECKS = (word_size, dot_products, kernels, threads, agent)
