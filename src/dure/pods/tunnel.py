"""A way from a socket on this machine to the server in a pod: one ssh process that cannot be forgotten.

It ends with whoever holds it, however that ends, since the pod's side reads from it. What it reads are
heartbeats for the guard in the pod. Refuses to know whether the pod runs.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from dure.errors import ResourceError, UsageError
from dure.places import temporary_directory
from dure.pods.ledger import Entry
from dure.pods.provider import PodError
from dure.pods.ssh_access import SshAccess

__all__ = ["PodTunnel"]

_OPENS_S = 20.0
_ENDS_S = 5.0
_HOLD = (
    "d=${DURE_POD_STATE:-/var/lib/dure-pod}; echo open; "
    "while read -r _; do date +%s >$d/heartbeat; done"
)
"""Run in the pod: it says that the way is open, notes each heartbeat, and ends when nobody sends any."""
_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=5",
    "ExitOnForwardFailure=yes",
    "ServerAliveInterval=5",  # so a pod whose network is gone is noticed in 15 s
    "StreamLocalBindUnlink=yes",
    "ControlPath=none",  # a process of its own, that ends when it is told
    "LogLevel=ERROR",
)


_LONGEST_FOLDER = 80  # bytes: the path of a socket has 107 at most


class PodTunnel:
    """A tunnel to the server of one pod. socket: its end here, another one each time."""

    def __init__(self) -> None:
        self.socket = Path()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the process lives: it ends when its connection does."""
        process = self._process  # another thread may close it
        return process is not None and process.poll() is None

    def open(self, ssh: SshAccess, entry: Entry) -> None:
        """Open it anew, to the port that the ledger has. Blocks for some seconds.

        Raises PodError if the pod does not let in, ResourceError without ssh, UsageError without a place
        for the socket.
        """
        self.close()
        self._folder = _private_folder()
        self.socket = self._folder / "pod"
        options = [word for option in _OPTIONS for word in ("-o", option)]
        forward = ["-L", f"{self.socket}:127.0.0.1:{entry.server_port}"]
        command = ssh.command(entry, [_HOLD], [*options, *forward])
        try:
            with (self._folder / "ssh").open("wb") as said:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    bufsize=0,
                    env=ssh.environment(),
                    start_new_session=True,  # a Ctrl-C ends its owner, who ends it when all is answered
                )
        except FileNotFoundError as error:
            raise ResourceError(
                "ssh is not here", "install it with `sudo apt install openssh-client`"
            ) from error
        if not self._says_open(self._process):
            said_last = _last_line(self._folder / "ssh")
            self.close()
            raise PodError(
                f"no tunnel to {entry.name} opens: {said_last}",
                f"see `dure pod ssh {entry.name}`, which mends its entry",
            )

    def beat(self) -> None:
        """Let the guard in the pod know that its owner is here."""
        process = self._process
        if process is not None and process.stdin is not None:
            with suppress(OSError, ValueError):  # it has ended, which is noticed elsewhere
                process.stdin.write(b"\n")

    def close(self) -> None:
        """End it, and take its socket away."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_ENDS_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @staticmethod
    def _says_open(process: subprocess.Popen[bytes]) -> bool:
        assert process.stdout is not None, "it is a pipe"
        ready, _, _ = select.select([process.stdout], [], [], _OPENS_S)
        return bool(ready) and os.read(process.stdout.fileno(), 100).startswith(b"open")


def _last_line(file: Path) -> str:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")


def _private_folder() -> Path:
    """Make a folder that only this user can enter. Raises UsageError if a socket cannot be there."""
    folder = Path(tempfile.mkdtemp(prefix="dure-pod-", dir=temporary_directory()))
    if len(str(folder)) <= _LONGEST_FOLDER and ":" not in str(folder):
        return folder
    folder.rmdir()
    raise UsageError(
        f"{folder.parent} is no place for a tunnel's socket: its path is too long, or has a colon",
        "set TMPDIR to a short one, as TMPDIR=/tmp",
    )
