"""However a program ends, and however it leaves a model: no rank of it is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.dure_process import WAIT_S, Dure

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
# SIGINT is ignored where the tests run in the background.
OPEN = f"""
import signal; signal.signal(signal.SIGINT, signal.default_int_handler)
import dure
model = dure.open({str(DEMO)!r}, ranks=2, threads=1)
"""
ENDS = {
    "an exception in the block": "with model: raise ValueError('of the program')",
    "left open": "",
    "left open with a stream": "stream = model.generate('Once', stream=True); next(stream)",
    "dropped": "import gc; model = None; gc.collect(); import time; time.sleep(1)",
    "exit in the block": "with model: raise SystemExit(1)",
    "an exception that keeps it": "def f():\n    with model: 1 / 0\nf()",
}


def start(dure: Dure, program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=dure.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )


@pytest.mark.parametrize("how", ENDS)
def test_no_rank_is_left(tmp_path: Path, how: str) -> None:
    """By an error, by exit, by the end of the program: its ranks end with it."""
    dure = Dure(tmp_path)
    process = start(dure, f"{OPEN}print('open', flush=True)\n{ENDS[how]}")
    out, err = process.communicate(timeout=WAIT_S)
    assert out == b"open\n", err
    assert b"Exception ignored" not in err
    assert dure.left_behind() == []


def test_what_a_program_forks_ends_nothing(tmp_path: Path) -> None:
    """A fork has a copy of the model; its end, and that of its copy, leave the ranks to their program."""
    dure = Dure(tmp_path)
    program = f"""{OPEN}
import os, sys
if not (child := os.fork()):
    model.close()
    sys.exit()
os.waitpid(child, 0)
print("open" if model.generate("Once", max_tokens=3).tokens else "", flush=True)
"""
    out, err = start(dure, program).communicate(timeout=WAIT_S)
    assert out == b"open\n", err
    assert dure.left_behind() == []


def test_ctrl_c_in_the_block_ends_the_ranks(tmp_path: Path) -> None:
    """The program sees KeyboardInterrupt, as of any other function, and the ranks are gone."""
    dure = Dure(tmp_path)
    asks = "    while True:\n        print(len(model.generate('Once', max_tokens=9).tokens), flush=True)\n"
    process = start(dure, f"{OPEN}with model:\n{asks}")
    assert process.stdout is not None
    assert process.stdout.readline() == b"9\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT_S)
    assert err.strip().endswith(b"KeyboardInterrupt")
    assert dure.left_behind() == []


def test_an_interrupted_answer_leaves_the_model_usable(tmp_path: Path) -> None:
    """As in a notebook: Ctrl-C ends a call, wherever it comes, and the next answers are as before."""
    dure = Dure(tmp_path)
    program = f"""{OPEN}
def said():
    return model.generate("Once upon a time", temperature=0, max_tokens=30).text
first = said()
with model:
    for _ in range(5):
        print("asks", flush=True)
        try:
            while True:
                model.generate("The goat", max_tokens=200)
        except KeyboardInterrupt:
            assert said() == first
print("done", flush=True)
"""
    process = start(dure, program)
    assert process.stdout is not None
    for i in range(5):
        assert process.stdout.readline() == b"asks\n"
        time.sleep(0.05 + 0.017 * i)  # anywhere within an answer
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WAIT_S)
    assert (out, process.returncode) == (b"done\n", 0), err
    assert dure.left_behind() == []
