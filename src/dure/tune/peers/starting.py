"""Starts one process for each GPU, as torchrun does, and ends all of them if one has failed.

Their group meets in a store that lies here, so no port is chosen twice. Ctrl-C comes to this process alone,
which hands it on once.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from dure.errors import EngineError
from dure.tune.peers.environment import OURS, TOLD

__all__ = ["run_together"]

LOOK_S = 0.1
GRACE_S = 20.0  # for the others to end by themselves, after one has failed
_HERE, _FIRST_TRY = "127.0.0.1", "0"


def run_together(words: Sequence[str], n: int, signal_that_came: Callable[[], int]) -> int:
    """Run a command n times at once; return 0, or what the first that failed has returned.

    signal_that_came: the number of a signal to be handed on, 0 while there is none. Raises EngineError if a
    process was killed, or died without a word.
    """
    from torch.distributed import PrefixStore, TCPStore

    server = TCPStore(_HERE, 0, is_master=True, wait_for_workers=False)
    store = PrefixStore(f"/worker/attempt_{_FIRST_TRY}", server)  # where torch's processes look
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(n):
            environment = os.environ | _variables(number, n, server.port)
            processes.append(subprocess.Popen(words, env=environment, process_group=0))
        _wait(processes, signal_that_came)
        codes = {i: code for i, one in enumerate(processes) if (code := one.poll())}
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    if not codes:
        return 0
    first = min(codes, key=lambda i: codes[i])  # one that was killed before those that noticed
    if codes[first] < 0 and not store.check([TOLD]):
        raise EngineError(
            f"process {first + 1} of {n} was ended by {signal.Signals(-codes[first]).name}",
            "look whether memory ran out; the same command goes on from the last checkpoint",
        )
    return max(1, codes[first])


def _variables(number: int, n: int, port: int) -> dict[str, str]:
    """Return what torchrun sets too."""
    return {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(n),
        "LOCAL_WORLD_SIZE": str(n),
        "MASTER_ADDR": _HERE,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": _FIRST_TRY,
        OURS: "1",
    }


def _wait(
    processes: Sequence[subprocess.Popen[bytes]], signal_that_came: Callable[[], int]
) -> None:
    """Wait until all have ended, or a while after one has failed, which the others notice."""
    is_handed_on, give_up = False, math.inf
    while any(one.poll() is None for one in processes) and time.monotonic() < give_up:
        if (number := signal_that_came()) and not is_handed_on:
            is_handed_on = True
            for process in processes:
                process.send_signal(number)
        if give_up == math.inf and any(one.poll() for one in processes):
            give_up = time.monotonic() + GRACE_S
        time.sleep(LOOK_S)
