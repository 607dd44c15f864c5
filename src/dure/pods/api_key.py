"""The key of a pod's public address: made here, kept in a private file, handed to the pod by ssh.

Neither the provider nor the ledger has it: the ledger knows the file alone.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from dure.errors import ResourceError, UsageError
from dure.pods.ledger import Entry
from dure.pods.provider import PodError
from dure.pods.ssh_access import SshAccess
from dure.whole_file import write_whole

__all__ = ["hand_api_key", "make_api_key"]

_RECEIVE = (
    "d=${DURE_POD_STATE:-/var/lib/dure-pod}; umask 077; "
    "cat >$d/api-key.part && [ -s $d/api-key.part ] && mv $d/api-key.part $d/api-key"
)


def make_api_key(directory: Path, name: str) -> Path:
    """Make a key for a pod and return its file, which only this user can read. Raises ResourceError."""
    file = directory / "keys" / f"{name}-{secrets.token_hex(3)}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(file, f"dure-{secrets.token_urlsafe(32)}\n".encode(), private=True)
    except OSError as error:
        raise ResourceError(f"cannot write a key to {file}: {error.strerror}") from error
    return file


def hand_api_key(ssh: SshAccess, entry: Entry) -> None:
    """Give a pod the key of its public address on ssh's input; one without such an address gets none.

    Raises PodError, or UsageError if the key is not here.
    """
    if not entry.key_file:
        return
    try:
        secret = Path(entry.key_file).read_text()
    except OSError as error:
        raise UsageError(
            f"cannot read the key in {entry.key_file}: {error.strerror}",
            f"make another pod, as {entry.name} answers nobody without it",
        ) from error
    if ssh.run(entry, _RECEIVE, secret).returncode:
        raise PodError(
            f"{entry.name} does not take its key, so its public address is closed",
            f"look at `dure pod logs {entry.name}`",
        )
