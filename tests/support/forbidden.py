"""Runs a command in which one process may not read another's memory, as in many containers.

python tests/support/forbidden.py COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Mapping

PROCESS_VM_READV = {"x86_64": 310, "aarch64": 270}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_ALLOW, _ERROR = 0x7FFF_0000, 0x0005_0000
IOCTL = {"x86_64": 16, "aarch64": 29}


def forbid(
    numbers: Mapping[str, int], error: int = errno.EPERM, second_argument: int | None = None
) -> None:
    """Have the kernel refuse a system call, in this process and all that it starts.

    numbers: the call's, by processor. second_argument: the only one that is refused, below 2^32.
    """
    steps = [
        (_LOAD, 0, 0, 0),  # the system call's number
        (_JUMP_IF_EQUAL, 0, 1 if second_argument is None else 3, numbers[platform.machine()]),
        (_RETURN, 0, 0, _ERROR | error),
        (_RETURN, 0, 0, _ALLOW),
    ]
    if second_argument is not None:
        steps[2:2] = [(_LOAD, 0, 0, 24), (_JUMP_IF_EQUAL, 0, 1, second_argument)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    filter_ = struct.pack("@HP", len(steps), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_PR_SET_SECCOMP, _FILTER, filter_, 0, 0):
        raise OSError(ctypes.get_errno(), "the filter was not set")


if __name__ == "__main__":
    forbid(PROCESS_VM_READV)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  # what it is for
