"""What is worked with wherever pods are: an account at a provider, its ledger, and the way in by ssh."""

from __future__ import annotations

from dataclasses import dataclass

from dure.pods.ledger import Entry, Ledger
from dure.pods.life import PodLives
from dure.pods.ssh_access import SshAccess

__all__ = ["PodAccount"]


@dataclass(frozen=True)
class PodAccount:
    """The user's pods and how they are reached."""

    lives: PodLives
    ssh: SshAccess

    @property
    def ledger(self) -> Ledger:
        """What dure made."""
        return self.lives.ledger

    def named(self, name: str) -> Entry:
        """Return a living pod, as the provider shows it now. Raises UsageError, PodError."""
        entry, pod = self.lives.look(self.ledger.named(name))
        if pod is None and entry.pod_id:
            return self.lives.bury(entry)
        return entry
