"""`python -m dure.pods.emulator`: what `dure pod emulator` runs, until Ctrl-C."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from pathlib import Path

from dure.pods.emulator.account import Account, EmulatorClock, PodMachine
from dure.pods.emulator.machine import LocalMachine
from dure.pods.emulator.server import EmulatorServer

__all__ = ["emulate"]


def emulate(port: int, *, real: bool, as_json: bool = False) -> None:
    """Serve until interrupted. real: pods' start commands run on this machine, with an sshd each."""
    with tempfile.TemporaryDirectory(prefix="dure-pods-") as folder:
        counted = iter(range(1_000_000))

        def machine() -> PodMachine:
            return LocalMachine(Path(folder) / f"pod-{next(counted)}")

        account = Account(EmulatorClock(is_running=True), machine if real else None)
        with EmulatorServer(account, port) as server:
            given = {"RUNPOD_API_BASE_URL": server.url, "RUNPOD_API_KEY": account.key}
            words = " ".join(f"{name}={value}" for name, value in given.items())
            sys.stdout.write(f"{json.dumps(given) if as_json else f'export {words}'}\n")
            sys.stdout.flush()
            threading.Event().wait()


if __name__ == "__main__":
    emulate(int(sys.argv[1]) if len(sys.argv) > 1 else 0, real="--real" in sys.argv)
