"""Opens what every `dure pod` command works with: the account, the ledger, and ssh."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dure.cli.terminal.console import print_warning
from dure.places import pods_directory
from dure.pods.account import PodAccount
from dure.pods.keys import account_key
from dure.pods.ledger import Ledger
from dure.pods.life import PodLives
from dure.pods.runpod import RunPod
from dure.pods.ssh_access import SshAccess

__all__ = ["PodAccount", "opened"]


@contextmanager
def opened(own_key: Path | None = None) -> Iterator[PodAccount]:
    """Open them while a block runs; what the ledger could not be told is a warning."""
    provider, ledger = RunPod(account_key()), Ledger(pods_directory())
    lives = PodLives(provider, ledger)
    try:
        yield PodAccount(lives, SshAccess(Path.home(), own_key))
    finally:
        for problem in dict.fromkeys(lives.unwritten):
            print_warning(problem)
        provider.close()
        ledger.close()
