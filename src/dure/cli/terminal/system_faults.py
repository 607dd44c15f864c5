"""Says what the system's own errors with files mean for a user. Refuses to know which command met them."""

from __future__ import annotations

import errno

from dure.errors import ResourceError

__all__ = ["fault_of"]

_FULL = "no space left on the disk", "make room, or write elsewhere"
_CURES = {
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM), "give this user the right to it, or name another place"
    ),
    errno.EROFS: "make that disk writable, or name another place",
    errno.EIO: "look at that disk, or name another place",
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP), "name another place"
    ),
}


def fault_of(error: OSError) -> ResourceError | None:
    """Return what a user can mend: a disk, a right, a path; None if it may be a bug of ours."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ResourceError(*_FULL)
    cure = _CURES.get(error.errno or 0)
    if cure is None or error.filename is None:
        return None
    return ResourceError(f"{error.filename}: {(error.strerror or str(error)).lower()}", cure)
