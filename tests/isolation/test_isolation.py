"""Calls that end their process, never return or fill the memory are errors, and hold up nobody else."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dure.errors import ParameterError, UsageError
from dure.isolation import Isolation, IsolationLimits, current_owner

TOOLS = ["shared"]
WAIT_S = 60.0  # detects a hang
SHORT = IsolationLimits(time_s=0.3, memory_bytes=256 << 20)


def joined(tools: list[str], more: str) -> str:
    return "+".join([*tools, more])


def pid_of(_tools: list[str]) -> int:
    return os.getpid()


def crashes(_tools: list[str]) -> None:
    signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)


def dies_later(_tools: list[str]) -> None:
    threading.Timer(0.05, os._exit, [3]).start()


def exits(_tools: list[str]) -> None:
    os._exit(3)


def hangs(_tools: list[str]) -> None:
    while True:
        time.sleep(1)


def allocates(_tools: list[str], n_bytes: int) -> int:
    return len(bytearray(n_bytes))


def refuses(_tools: list[str]) -> None:
    raise ParameterError("grammar", "it is odd", "write another")


def is_wrong(_tools: list[str]) -> None:
    raise KeyError("a bug")


def unpicklable(_tools: list[str]) -> object:
    return threading.Lock()


def open_files(_tools: list[str]) -> list[str]:
    return [os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()]


@pytest.fixture(name="isolation")
def _isolation() -> Iterator[Isolation[list[str]]]:
    with Isolation(TOOLS, SHORT) as made:
        yield made


def test_a_call_has_the_tools_and_runs_elsewhere(isolation: Isolation[list[str]]) -> None:
    assert isolation.call(joined, "more") == "shared+more"
    assert isolation.call(pid_of) == isolation.call(pid_of) != os.getpid()


@pytest.mark.parametrize("end", [crashes, exits])
def test_a_call_that_ends_its_process_is_an_error(
    isolation: Isolation[list[str]], end: object
) -> None:
    """Again and again: each next call has a process that works."""
    for _ in range(3):
        with pytest.raises(UsageError, match="ended its process: make it shorter"):
            isolation.call(end)  # type: ignore[arg-type]
        assert isolation.call(joined, "x") == "shared+x"


def test_a_process_that_dies_between_calls_is_replaced(isolation: Isolation[list[str]]) -> None:
    isolation.call(dies_later)
    time.sleep(0.2)
    assert isolation.call(joined, "x") == "shared+x"


def test_a_call_that_hangs_is_killed(isolation: Isolation[list[str]]) -> None:
    first = isolation.call(pid_of)
    with pytest.raises(UsageError, match=r"takes longer than 0\.3 s"):
        isolation.call(hangs)
    assert isolation.call(joined, "x") == "shared+x"
    assert isolation.call(pid_of) != first


def test_memory_is_bounded(isolation: Isolation[list[str]]) -> None:
    assert isolation.call(allocates, 16 << 20) == 16 << 20
    with pytest.raises(UsageError, match="more than 256 MiB"):
        isolation.call(allocates, 1 << 30)
    assert isolation.call(joined, "x") == "shared+x"


def test_errors_come_back(isolation: Isolation[list[str]]) -> None:
    """One for the user as itself; another with its traceback, as a bug."""
    with pytest.raises(ParameterError, match="it is odd: write another") as caught:
        isolation.call(refuses)
    assert caught.value.param == "grammar"
    with pytest.raises(RuntimeError, match="KeyError: 'a bug'"):
        isolation.call(is_wrong)
    with pytest.raises(RuntimeError, match="cannot pickle"):
        isolation.call(unpicklable)
    assert isolation.call(joined, "x") == "shared+x"


def test_long_calls_do_not_hold_up_short_ones() -> None:
    """More of them than there are workers; the short one ends first."""

    async def all_of_them() -> list[str]:
        ended: list[str] = []

        async def long() -> None:
            with pytest.raises(UsageError):
                await isolation.called(hangs, is_long=True)
            ended.append("long")

        async def short() -> None:
            await asyncio.sleep(0.1)
            await isolation.called(joined, "x")
            ended.append("short")

        await asyncio.gather(*(long() for _ in range(3)), short())
        return ended

    with Isolation(TOOLS, IsolationLimits(time_s=2.0, most=4)) as isolation:
        assert asyncio.run(asyncio.wait_for(all_of_them(), WAIT_S))[0] == "short"


@pytest.mark.parametrize("is_long", [False, True])
def test_calls_of_one_owner_hold_up_no_other(is_long: bool) -> None:
    """However many hang: another's calls are answered meanwhile, one after the other."""

    async def of(owner: str, function: Any, *arguments: Any) -> Any:
        current_owner.set(owner)
        return await isolation.called(function, *arguments, is_long=is_long)

    async def all_of_them() -> None:
        hanging = [asyncio.create_task(of("one", hangs)) for _ in range(8)]
        await asyncio.sleep(0)
        for _ in range(3):
            assert await of("other", joined, "x") == "shared+x"
        assert not any(task.done() for task in hanging)
        for task in hanging:
            task.cancel()
        await asyncio.wait(hanging)

    with Isolation(TOOLS, IsolationLimits(time_s=2 * WAIT_S)) as isolation:
        asyncio.run(asyncio.wait_for(all_of_them(), WAIT_S))


def test_nothing_of_the_caller_stays_open(tmp_path: Path) -> None:
    """Others wait for the end of its connections, and a lock is held for as long as one has it open."""
    file = tmp_path / "held"
    with file.open("w"), Isolation(TOOLS) as isolation:
        assert str(file) in open_files(TOOLS)
        assert str(file) not in isolation.call(open_files)


def test_closing_ends_every_process_though_one_hangs() -> None:
    before = psutil.Process().children(recursive=True)
    isolation = Isolation(TOOLS)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(isolation.called(hangs, is_long=True), 0.3))
    below = [p for p in psutil.Process().children(recursive=True) if p not in before]
    assert len(below) == 2
    isolation.close()
    gone, alive = psutil.wait_procs(below, timeout=WAIT_S)
    assert gone
    assert not [process for process in alive if process in below]


def _abandon(connection: object) -> None:
    isolation = Isolation(TOOLS)
    pids = [isolation.call(pid_of), isolation._keeper]
    connection.send(pids)  # type: ignore[attr-defined]
    threading.Thread(target=lambda: isolation.call(hangs), daemon=True).start()
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def test_no_process_outlives_a_caller_that_is_killed() -> None:
    ours, theirs = multiprocessing.Pipe()
    caller = multiprocessing.get_context("spawn").Process(target=_abandon, args=(theirs,))
    caller.start()
    assert ours.poll(WAIT_S)
    pids = ours.recv()
    caller.join(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_signals_to_the_group_leave_it_working() -> None:
    """Ctrl-C and a service's stop reach all processes; requests that run are still read."""
    code = (
        "import os, signal\n"
        "from tests.isolation.test_isolation import Isolation, TOOLS, joined, pid_of\n"
        "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, lambda *_: None)\n"
        "with Isolation(TOOLS) as isolation:\n"
        "    isolation.call(pid_of)\n"
        "    for number in (signal.SIGINT, signal.SIGTERM): os.killpg(0, number)\n"
        "    print(isolation.call(joined, 'x'))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, start_new_session=True,
        timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert (run.stdout, run.returncode) == ("shared+x\n", 0), run.stderr
