"""Another machine's shell over the system's own `ssh`: one login, then any number of commands.

Knows ssh's options, `~/.ssh/config` by way of ssh itself, and what its complaints mean. Refuses to ask
anything: a host that wants a password or shows an unknown key is an error with the cure. Refuses to know
what the commands do.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from dure.errors import ClusterError, UsageError
from dure.ssh_program import ssh_environment, ssh_is_here

__all__ = ["BROKEN", "Destination", "LoginError", "SshConnection", "SshReply", "as_typed"]

BROKEN = 255
CONNECT_S = 10
LOGIN_S = 60.0  # a name server that is slow, a jump host, a board that just starts
_OPTIONS = (
    "BatchMode=yes",  # a question in the midst of parallel work reaches nobody
    f"ConnectTimeout={CONNECT_S}",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "ClearAllForwardings=yes",  # what ~/.ssh/config forwards is for people
    "ControlPersist=no",  # a login ends with us
    "RemoteCommand=none",
    "RequestTTY=no",
    "LogLevel=ERROR",
)
_HELD = "exec cat >/dev/null"  # ends when its input does: with us, however we end
_HOST = re.compile(r"[A-Za-z0-9_.:%][A-Za-z0-9_.:%-]*")
_USER = re.compile(r"[^\s@:/'\"-][^\s:/'\"]*")


class LoginError(ClusterError):
    """ssh does not get in. lines: what it printed."""

    def __init__(self, problem: str, cure: str = "", *, lines: Sequence[str] = ()) -> None:
        super().__init__(problem, cure, lines=list(lines))
        self.lines = tuple(lines)


@dataclass(frozen=True)
class Destination:
    """A host to log in to, as given, and as ssh takes it. port: None leaves it to ssh."""

    text: str
    target: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Read HOST, USER@HOST, USER@HOST:PORT, or the same after ssh://. Raises UsageError."""
        user, at, rest = text.removeprefix("ssh://").rstrip("/").rpartition("@")
        host, port = _split(rest)
        is_port = port is None or (port.isdecimal() and 0 < int(port) < 1 << 16)
        if not _HOST.fullmatch(host) or not is_port or (at and not _USER.fullmatch(user)):
            raise UsageError(f"{text!r} is no host", "give HOST, USER@HOST or USER@HOST:PORT")
        return cls(text, f"{user}{at}{host}", None if port is None else int(port))

    @property
    def arguments(self) -> list[str]:
        """The arguments of ssh and ssh-copy-id."""
        return [*([] if self.port is None else ["-p", str(self.port)]), self.target]

    @property
    def known_as(self) -> str:
        """Its name in known_hosts."""
        host = self.target.rpartition("@")[2]
        return host if self.port in {None, 22} else f"[{host}]:{self.port}"


def _split(rest: str) -> tuple[str, str | None]:
    """Return host and port; colons without brackets are an IPv6 address."""
    if bracketed := re.fullmatch(r"\[([^\]]*)\](?::(.*))?", rest):
        return bracketed[1], bracketed[2]
    if rest.count(":") == 1:
        host, _, port = rest.partition(":")
        return host, port
    return rest, None


def as_typed(destination: Destination, script: str, *, terminal: bool = False) -> str:
    """Return a command that a person can paste: it runs the script on that host."""
    options = ["-t"] if terminal else []
    return shlex.join(["ssh", *options, *destination.arguments, script])


@dataclass(frozen=True)
class SshReply:
    """What a command printed, on both streams, and its exit status; BROKEN is ssh's own."""

    status: int
    lines: tuple[str, ...]


class SshConnection:
    """Log in to a host once, and run commands by that login. `open` it, `close` it.

    control: a path in a directory that nobody else may enter; ssh makes a socket there.
    """

    def __init__(self, destination: Destination, control: Path) -> None:
        self.destination = destination
        self.closed = threading.Event()
        self._control = control
        self._log = control.with_suffix(".log")
        self._login: subprocess.Popen[bytes] | None = None
        self._changing = threading.Lock()

    def open(self) -> None:
        """Log in. Raises LoginError, ResourceError if there is no ssh."""
        ssh_is_here()
        with self._changing, self._log.open("wb") as log:
            if self.closed.is_set():
                return
            self._login = subprocess.Popen(
                [*self._ssh("ControlMaster=yes"), "--", self.destination.target, _HELD],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # no terminal on which a jump host could ask
            )
        self._wait(self._login)

    def _wait(self, login: subprocess.Popen[bytes]) -> None:
        give_up = time.monotonic() + LOGIN_S
        while not self._control.exists():  # ssh makes it once it is in
            if login.poll() is not None:
                raise _complaint(self.destination, self._logged())
            if time.monotonic() > give_up:
                self.close()
                raise _complaint(self.destination, [*self._logged(), "Connection timed out"])
            time.sleep(0.05)

    def _logged(self) -> list[str]:
        text = self._log.read_text(errors="replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()]

    def run(
        self,
        script: str,
        sends: bytes | Path | None = None,
        on_line: Callable[[str], None] = lambda _line: None,
    ) -> SshReply:
        """Run a script with `sh` there. sends: its input. on_line: gets each line as it comes.

        Write no backslash in the script: not every login shell reads one between quotes as `sh` does.
        """
        if self.closed.is_set():
            return SshReply(BROKEN, ())
        with ExitStack() as stack:
            given = stack.enter_context(sends.open("rb")) if isinstance(sends, Path) else None
            # By that login, or not at all: without it, ssh would begin another one.
            ssh = self._ssh("ControlMaster=no", "ProxyCommand=false")
            process = stack.enter_context(
                subprocess.Popen(
                    [*ssh, "--", self.destination.target, f"exec sh -c {shlex.quote(script)}"],
                    stdin=given or (subprocess.DEVNULL if sends is None else subprocess.PIPE),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=_environment(),
                    start_new_session=True,
                )
            )
            if isinstance(sends, bytes):  # a line: it fits in the pipe
                assert process.stdin is not None
                with suppress(BrokenPipeError), process.stdin as to:
                    to.write(sends)
            lines = []
            assert process.stdout is not None
            for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip()
                lines.append(line)
                on_line(line)
        return SshReply(process.returncode, tuple(lines))

    def close(self) -> None:
        """Log out; commands that run end, here at least."""
        with self._changing:
            self.closed.set()
            login = self._login
        if login is None:
            return
        login.terminate()
        try:
            login.wait(5)
        except subprocess.TimeoutExpired:
            login.kill()
            login.wait()
        if login.stdin is not None:
            login.stdin.close()

    def _ssh(self, *more: str) -> list[str]:
        family = "any" if ":" in self.destination.target else "inet"  # a cluster is IPv4
        settings = (*_OPTIONS, f"AddressFamily={family}", *more)
        options = [word for option in settings for word in ("-o", option)]
        port = self.destination.arguments[:-1]
        return ["ssh", *options, "-S", str(self._control), *port]


def _environment() -> dict[str, str]:
    return {**ssh_environment(), "SSH_ASKPASS_REQUIRE": "never"}


# ---------------------------------------------------------------- what ssh complains of

_COMPLAINTS = (  # words of ssh's, what they mean, the cure; the first that match count
    (
        "IDENTIFICATION HAS CHANGED",
        "its host key is not the one that it had",
        "if the machine was installed anew, `ssh-keygen -R {known_as}`, then `{ssh}` once",
    ),
    (
        "Host key verification failed",
        "its host key is not known here",
        "`{ssh}` once, compare the key, and answer yes",
    ),
    (
        "Permission denied",
        "it takes no key of yours, and passwords are not asked for here",
        "`{copy}` once; a key with a passphrase wants `ssh-add` first",
    ),
    (
        "Too many authentication failures",
        "it saw too many keys before the right one",
        "name the right one in ~/.ssh/config, with IdentityFile and IdentitiesOnly yes",
    ),
    (
        "Could not resolve hostname",
        "no machine of this name is known",
        "look for a typing mistake, or give its address",
    ),
    (
        "Connection refused",
        "nothing listens for ssh there",
        "`sudo apt install openssh-server` on it, or say its port, as in USER@HOST:22",
    ),
    ("timed out", "it does not answer", "is it on, and on this network?"),
    ("No route to host", "it does not answer", "is it on, and on this network?"),
    ("unreachable", "it does not answer", "is it on, and on this network?"),
    (
        "too long for Unix domain socket",
        "the name of the temporary directory is too long for ssh",
        "set TMPDIR=/tmp",
    ),
)


def _complaint(destination: Destination, lines: Sequence[str]) -> LoginError:
    """Return the error that the lines of ssh mean."""
    text = "\n".join(lines)
    words = {
        "ssh": shlex.join(["ssh", *destination.arguments]),
        "copy": shlex.join(["ssh-copy-id", *destination.arguments]),
        "known_as": shlex.quote(destination.known_as),
    }
    for word, problem, cure in _COMPLAINTS:
        if word in text:
            return LoginError(problem, cure.format(**words), lines=lines)
    problem = lines[-1] if lines else "ssh ended without a word"
    return LoginError(problem, f"`{words['ssh']}` must work before", lines=lines)
