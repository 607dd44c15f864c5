"""A node's membership in its cluster: it takes another name, or leaves, as the root or its user wants.

Knows the files of the node's directory. Refuses to know what runs meanwhile.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dure.cluster.trust.identity import Credentials
from dure.cluster.trust.joining import NodeFile
from dure.errors import ResourceError

__all__ = ["forget", "name_request", "note_name", "take_name"]


def name_request(directory: Path, name: str) -> bytes:
    """Return a node's request for a certificate of another name (PEM). Raises ClusterError."""
    NodeFile.read(directory)
    with _explaining("read"):
        return Credentials(directory).request(name)


def take_name(directory: Path, certificate: bytes) -> None:
    """Have a node be called as a certificate (PEM) for its key says.

    The certificate is replaced in one step, and a name that is not noted beside it is at the next start.
    Raises UsageError if it is not for this node, ResourceError if it cannot be written.
    """
    node = NodeFile.read(directory)
    with _explaining("written"):
        name = Credentials(directory).renew(certificate)
        note_name(directory, node, name)


def note_name(directory: Path, node: NodeFile, name: str) -> None:
    """Note the name that a node's certificate has, if another one is noted. Raises OSError."""
    if node.name != name:
        node.name = name
        node.write(directory)


def forget(directory: Path) -> None:
    """Delete what a node has in its directory, and the directory if nothing else is in it.

    What says that it is a node goes last: if something cannot be deleted, it is one still, and can leave
    again. Raises ResourceError.
    """
    own = Credentials(directory)
    with _explaining("deleted", "delete it there"):
        for name in ("prefixes", "run", "shards"):
            if (directory / name).exists():
                shutil.rmtree(directory / name, onerror=_raise_with_path)
        for path in (*own.files, directory / "node.json"):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody keeps other things there
        directory.rmdir()


def _raise_with_path(_function: object, path: str, failure: tuple[object, Any, object]) -> None:
    error = failure[1]
    raise OSError(error.errno, error.strerror, path) from error


@contextlib.contextmanager
def _explaining(done: str, cure: str = "") -> Iterator[None]:
    """Raise ResourceError that says what could not be done with a file."""
    try:
        yield
    except OSError as error:
        path, reason = error.filename or "a file", error.strerror or error
        raise ResourceError(f"{path} cannot be {done} ({reason})", cure) from error
