"""Runs a command in which one process may not read another's memory, as in many containers.

python tests/support/forbidden.py COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

PROCESS_VM_READV = {"x86_64": 310, "aarch64": 270}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_ALLOW, _ERROR = 0x7FFF_0000, 0x0005_0000
_EPERM = 1


def forbid() -> None:
    """Have the kernel refuse process_vm_readv, in this process and all that it starts."""
    number = PROCESS_VM_READV[platform.machine()]
    steps = [
        (_LOAD, 0, 0, 0),  # the system call's number
        (_JUMP_IF_EQUAL, 0, 1, number),
        (_RETURN, 0, 0, _ERROR | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    filter_ = struct.pack("@HP", len(steps), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_PR_SET_SECCOMP, _FILTER, filter_, 0, 0):
        raise OSError(ctypes.get_errno(), "the filter was not set")


if __name__ == "__main__":
    forbid()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  # what it is for
