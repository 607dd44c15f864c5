"""Somebody who rents pods with `dure pod`, against the emulator: real processes, a real sshd, no money."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from dure.pods.emulator.account import Account, EmulatedPod, EmulatorClock
from dure.pods.emulator.machine import LocalMachine
from dure.pods.emulator.server import EmulatorServer

__all__ = ["KEY", "MODEL", "UP", "Person", "a_person"]

KEY = "rpa_the-account-s-own-secret"
MODEL = "Qwen/Qwen3-4B-GGUF:Q4_K_M"
UP = ("up", "--name", "w", "--model", MODEL, "--gpu", "4090", "--yes", "--json")


@dataclass
class Person:
    """Somebody with a home and an account. said: all that the commands wrote.

    variables: of the hub, which is not asked else.
    """

    home: Path
    server: EmulatorServer
    said: list[str] = field(default_factory=list)
    programs: Path | None = None
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("DURE_", "RUNPOD_", "XDG_", "HF_"))
        }
        if self.programs:
            kept["PATH"] = f"{self.programs}:{kept['PATH']}"
        return {
            **kept,
            "HOME": str(self.home),
            "COLUMNS": "200",
            "RUNPOD_API_BASE_URL": self.server.url,
            "RUNPOD_API_KEY": KEY,
            **(self.variables or {"HF_HUB_OFFLINE": "1"}),
        }

    def dure(self, *words: str, status: int = 0, **environment: str) -> str:
        done = subprocess.run(
            self.command(*words),
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.said += [done.stdout, done.stderr]
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command that goes on until it is ended."""
        return subprocess.Popen(
            self.command(*words), env=self.environment, stdout=subprocess.PIPE, text=True
        )

    def json(self, *words: str) -> Any:
        return json.loads(self.dure(*words, "--json"))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "dure.cli.main", "pod", *words]

    def ssh(self, *words: str) -> str:
        """What any program does that reads ~/.ssh/config."""
        command = ["ssh", "-F", str(self.home / ".ssh" / "config"), "-o", "BatchMode=yes", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    def watch_programs(self) -> None:
        """Have ssh and what else is started write down what it was given, in `seen`."""
        folder = self.home.parent
        self.programs = folder / "bin"
        self.programs.mkdir()
        for name in ("ssh", "ssh-keygen", "rsync"):
            shim = self.programs / name
            look = f'{{ echo {name} "$@"; env; }} >>{folder}/seen'
            shim.write_text(f'#!/bin/sh\n{look}\nexec {shutil.which(name)} "$@"\n')
            shim.chmod(0o755)

    @property
    def pod(self) -> EmulatedPod:
        """The newest pod, as the provider has it."""
        return list(self.server.account.pods.values())[-1]

    def faults(self, **times: int) -> None:
        self.server.account.faults.set({name.replace("_", "-"): n for name, n in times.items()})


@contextmanager
def a_person(folder: Path) -> Iterator[Person]:
    numbers = count()
    account = Account(
        EmulatorClock(is_running=True),
        lambda: LocalMachine(folder / f"pod-{next(numbers)}"),
        key=KEY,
    )
    (folder / "home" / ".ssh").mkdir(parents=True)
    (folder / "home" / ".ssh" / "config").write_text("Host elsewhere\n    Port 2222\n")
    with EmulatorServer(account) as server:
        yield Person(folder / "home", server)
