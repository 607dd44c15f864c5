"""A node's membership while its agent runs: it takes another name, or leaves, as the root wants.

Knows the files of the node's directory. The agent's process must begin anew after either.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from dure.cluster.trust.identity import Credentials, is_pair, new_request
from dure.cluster.trust.joining import NodeFile
from dure.errors import ResourceError, UsageError

__all__ = ["Membership", "forget"]


def forget(directory: Path) -> None:
    """Delete what a node has in its directory, and the directory if nothing else is in it.

    Raises OSError.
    """
    own = Credentials(directory)
    for path in (own.key, own.certificate, own.authority, directory / "node.json"):
        path.unlink(missing_ok=True)
    for name in ("prefixes", "run", "shards"):
        if (directory / name).exists():
            shutil.rmtree(directory / name)
    with contextlib.suppress(OSError):  # somebody keeps other things there
        directory.rmdir()


class Membership:
    """What this node is in its cluster. changed: is called after a change, when the root has its answer.

    check_idle: raises ClusterError while ranks run.
    """

    def __init__(
        self, directory: Path, changed: Callable[[], None], check_idle: Callable[[], None]
    ) -> None:
        self._directory, self._changed, self._check_idle = directory, changed, check_idle
        self._prepared: tuple[str, bytes] | None = None  # name and key

    def prepare(self, name: str) -> bytes:
        """Make a key for another name; return the request for its certificate (PEM)."""
        self._check_idle()
        key, request = new_request(name)
        self._prepared = name, key
        return request

    def take(self, certificate: bytes) -> None:
        """Be called so, with this certificate (PEM). Raises UsageError if there is no key for it."""
        if self._prepared is None:
            raise UsageError("no name was prepared", "ask for a key first")
        self._check_idle()
        name, key = self._prepared
        if not is_pair(key, certificate, name):
            raise UsageError(f"this is no certificate of {name} for the key made last", "ask again")
        own, node = Credentials(self._directory), NodeFile.read(self._directory)
        own.write(key, certificate, own.authority.read_bytes())
        node.name = name
        node.write(self._directory)
        self._changed()

    def leave(self) -> None:
        """Delete all that this node stored of its cluster. Raises ResourceError if that fails."""
        self._check_idle()
        try:
            forget(self._directory)
        except OSError as error:
            raise ResourceError(
                f"{error.filename} cannot be deleted ({error.strerror})", "delete it there"
            ) from error
        self._changed()
