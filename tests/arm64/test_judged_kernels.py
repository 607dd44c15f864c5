"""How kernels for ARM are judged without a board: what is counted, and what the planner makes of it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from arm import WORKS, of_vectors
from arm_plan import Row, rows
from arm_sequence import CORES, cycles, disassembly, executed, llvm_mca, readable
from board import board
from measure import BenchError

from dure.hardware.probe import platform

ROOT = Path(__file__).parents[2]
CORE = CORES["cortex-a76"]
COMPILER = "aarch64-linux-gnu-gcc"
COUNTS_DOWN = """
#include <stdlib.h>
#include "arm_marks.h"
int main(int argc, char **argv) {
    long n = atol(argv[1]);
    if (n == 0) return 3;
    begin_measured();
    __asm__ volatile("1: nop\\n nop\\n subs %0, %0, #1\\n b.ne 1b" : "+r"(n) : : "cc");
    end_measured();
    return 0;
}
"""
needs_emulator = pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which("qemu-aarch64-static") is None,
    reason="apt install gcc-aarch64-linux-gnu qemu-user-static",
)


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program for ARM that executes four instructions, as often as it is told to."""
    folder = tmp_path_factory.mktemp("arm")
    (folder / "main.c").write_text(COUNTS_DOWN)
    words = [COMPILER, "-O2", "-static", f"-I{ROOT}/bench", "main.c", "-o", "main"]
    subprocess.run(words, cwd=folder, check=True)
    return folder / "main"


@needs_emulator
def test_each_executed_instruction_is_counted_once_and_named(binary: Path) -> None:
    few, many = (executed(binary, [n], CORE) for n in ("10", "35"))
    assert few is not None
    assert many is not None
    assert len(many) - len(few) == 4 * 25
    instructions = disassembly(binary)
    named = [instructions[at] for at in many]
    assert named.count("nop") >= 2 * 35
    assert named.count("b.ne\t#4") == 35


@needs_emulator
def test_a_product_that_no_kernel_takes_is_not_counted(binary: Path) -> None:
    assert executed(binary, ["0"], CORE) is None


def test_a_model_of_a_core_takes_longer_for_what_waits() -> None:
    """Sums that wait for each other take their latency, sums of their own the pipes' throughput."""
    try:
        llvm_mca()
    except BenchError as error:
        pytest.skip(str(error))
    waiting = ["fadd\tv0.4s, v0.4s, v1.4s"] * 200
    apart = [f"fadd\tv{i % 16}.4s, v20.4s, v21.4s" for i in range(200)]
    assert cycles(waiting, CORE) > 3 * cycles(apart, CORE)


@pytest.mark.parametrize(
    ("printed", "meant"),
    [
        ("sdot\tv0.4s, v1.16b, v2.4b[1]", "sdot\tv0.4s, v1.16b, v2.4b[1]"),
        ("mov\tx7, #0x10                   \t// #16", "mov\tx7, #0x10"),
        ("b.ne\t4005c8 <main+0x20>  // b.any", "b.ne\t#4"),
        ("tbz\tw0, #3, 4005c8 <main+0x20>", "tbz\tw0, #3, #4"),
        ("adrp\tx0, 48b000 <buffer>", "adrp\tx0, #4096"),
        ("bl\t400520 <memcpy>", "b\t#4"),
        ("casal\tx0, x1, [x25]", "nop"),
    ],
)
def test_where_a_branch_leads_is_left_out(printed: str, meant: str) -> None:
    assert readable(printed) == meant


def test_what_is_done_once_is_shared_by_a_prompts_vectors() -> None:
    """Of 7 for each vector and 160 once, a prompt of 512 vectors has 7 and 160 / 512 for each."""
    prompt = WORKS["prompt"]
    values = [7 * n + 160.0 for n in prompt.counted]
    assert of_vectors(prompt, values) == pytest.approx(7 + 160 / prompt.vectors)


# ---------------------------------------------------------------- the planner


def predicted(ours: float, theirs: float = 0.2) -> list[Row]:
    """What is predicted if a weight of any type takes dure so many cycles, and llama.cpp so many."""
    of_each = [
        {
            "quantity": f"cortex-a76 {kind} {work}",
            "unit": "cycles/weight",
            "contenders": {"dure": {"median": ours}, "llama.cpp": {"median": theirs}},
        }
        for kind in ("Q4_0", "Q4_K", "Q6_K", "Q8_0", "Q2_K", "Q3_K")
        for work in WORKS
    ]
    return [row for row in rows({"comparisons": of_each}) if row.kernels == "dure"]


def test_quicker_kernels_save_the_part_that_memory_does_not_hide() -> None:
    as_theirs, quick, none = (predicted(ours) for ours in (0.2, 0.1, 1e-9))
    for same, half, free in zip(as_theirs, quick, none, strict=True):
        assert same.generation < half.generation < free.generation
        assert half.memory_ms == free.memory_ms == same.memory_ms
        assert half.cores_ms == pytest.approx(same.cores_ms / 2, rel=1e-3)
        assert free.cores_ms == pytest.approx(0, abs=1e-3)


def test_prompts_follow_the_cycles() -> None:
    slow, quick = (predicted(ours)[0].prompt for ours in (0.1, 0.05))
    assert 1.2 * slow < quick < 2 * slow


# ---------------------------------------------------------------- a board


def test_what_a_board_shares_has_no_name_of_it() -> None:
    facts: dict[str, Any] = board(platform({}, lambda _: ""))
    text = json.dumps(facts)
    assert facts["board"]
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text


def test_llama_cpp_alone_tells_its_speeds() -> None:
    program, model = ROOT / "bench" / "board_llama.py", ROOT / "models" / "dure-demo.gguf"
    argv = [
        sys.executable,
        str(program),
        str(model),
        "--threads",
        "1",
        "-p",
        "8",
        "-n",
        "4",
        "--repeat",
        "1",
    ]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert {name: rate > 0 for name, rate in json.loads(done.stdout).items()} == {
        "prompt": True,
        "generation": True,
    }
