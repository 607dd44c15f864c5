"""Keeps what a router has learned through restarts, in one file that is written whole.

Refuses to know what is learned. A file that cannot be read is as good as none: all of it is learned again.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from dure.route.learning import Learned
from dure.whole_file import write_whole

__all__ = ["read_learned", "write_learned"]

_log = logging.getLogger("dure.serve")


def read_learned(path: Path) -> Learned:
    """Return what was learned before; nothing if there is no file, or none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Learned)
    except FileNotFoundError:
        return Learned()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        _log.warning("%s cannot be read, so speeds are learned again: %s", path, error)
        return Learned()


def write_learned(path: Path, learned: Learned) -> None:
    """Keep it. If the disk refuses, the log says so and the router goes on."""
    try:
        write_whole(path, msgspec.json.encode(learned), private=True)
    except OSError as error:
        _log.warning("%s cannot be written: %s", path, error.strerror)
