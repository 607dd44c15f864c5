"""Services of systemd: what dure runs with every start of a machine, as a user without privileges.

Knows where units lie, how their words are written, and systemctl. With root's rights a service is one of
the system, for a user that is named; without, one of the user's own, which lingers when nobody is logged
in. Refuses to know what a service runs.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dure.errors import ResourceError, UsageError

__all__ = ["Service", "command_line", "plain", "quoted", "service_for"]

_SYSTEM_UNITS = Path("/etc/systemd/system")


@dataclass(frozen=True)
class Service:
    """Install and remove one service.

    unit: its name. user: whose rights it has. of_system: it is systemd's own, not the user's. units: where
    units lie.
    """

    unit: str
    user: str
    of_system: bool
    units: Path

    @property
    def path(self) -> Path:
        """The unit's file."""
        return self.units / self.unit

    @property
    def home(self) -> Path:
        """The home of its user."""
        return Path(pwd.getpwnam(self.user).pw_dir) if self.of_system else Path.home()

    @property
    def who(self) -> str:
        """The unit's line that says whose rights it has."""
        return f"User={self.user}\n" if self.of_system else ""

    @property
    def target(self) -> str:
        """What it starts with."""
        return "multi-user.target" if self.of_system else "default.target"

    @property
    def log(self) -> str:
        """The command that shows what the service writes."""
        return f"journalctl {'-u' if self.of_system else '--user-unit'} {self._name} -f"

    def control(self, verb: str) -> str:
        """Return the command that does this with the service."""
        return f"{'sudo systemctl' if self.of_system else 'systemctl --user'} {verb} {self._name}"

    def install(self, text: str) -> None:
        """Write the unit, and start it now and with every start of the machine. Raises ResourceError."""
        _check_systemd()
        try:
            self.units.mkdir(parents=True, exist_ok=True)
            self.path.write_text(text)
        except OSError as error:
            raise ResourceError(f"cannot write {self.path}: {error.strerror}") from error
        self._systemctl("daemon-reload")
        self._systemctl("enable", "--now", self.unit)
        self._systemctl("restart", self.unit)  # it may run already, with an older unit
        if not self.of_system:
            _run(["loginctl", "enable-linger", self.user])

    def uninstall(self) -> None:
        """Stop the service and remove its unit. Raises UsageError if there is none."""
        if not self.path.exists():
            raise UsageError(f"no service is installed: {self.path} is not there")
        _check_systemd()
        self._systemctl("disable", "--now", self.unit)
        self.path.unlink()
        self._systemctl("daemon-reload")

    @property
    def _name(self) -> str:
        return self.unit.removesuffix(".service")

    def _systemctl(self, *arguments: str) -> None:
        _run(["systemctl", *([] if self.of_system else ["--user"]), *arguments])


# ---------------------------------------------------------------- words of a unit


def command_line(program: str, words: list[str]) -> str:
    """Return a program with its words, for ExecStart=. Raises UsageError.

    In the words, $ would name a variable; in the program's path systemd looks for none, and it takes no
    quotes there: a shell starts such a program.
    """
    if re.search(r"[\"'\\]", program):
        program, words = "/bin/sh", ["-c", 'exec "$0" "$@"', program, *words]
    return " ".join([quoted(program), *(quoted(word.replace("$", "$$")) for word in words)])


def quoted(word: str) -> str:
    """Return a word as systemd reads it from a unit (systemd.syntax(7)). Raises UsageError."""
    escaped = plain(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if not word or re.search(r"[\s\"'\\;#]", word) else escaped


def plain(text: str) -> str:
    """Return a text for a setting that takes the whole line, as WorkingDirectory=. Raises UsageError."""
    if not text.isprintable():
        raise UsageError(
            f"{text!r} cannot stand in a unit", "use a name without control characters"
        )
    return text.replace("%", "%%")


# ---------------------------------------------------------------- this machine


def service_for(unit: str, user: str | None, *, may_be_root: bool = False) -> Service:
    """Return the service that this process may install. user: whom it runs as, if root asks.

    Raises UsageError if that would be nobody, or root unless it may be.
    """
    if os.geteuid() != 0:
        own = pwd.getpwuid(os.geteuid()).pw_name
        if user not in {None, own}:
            raise UsageError(
                f"only root installs a service for {user}", "use sudo, or leave out --user"
            )
        return Service(unit, own, False, Path.home() / ".config" / "systemd" / "user")
    named = user or os.environ.get("SUDO_USER", "") or ("root" if may_be_root else "")
    if not named or (named == "root" and not may_be_root):
        raise UsageError(
            "the service does not need root",
            "name the user it runs as with --user, as in --user pi",
        )
    try:
        pwd.getpwnam(named)
    except KeyError:
        raise UsageError(
            f"there is no user {named}", f"make one with `adduser --system {named}`"
        ) from None
    return Service(unit, named, True, _SYSTEM_UNITS)


def _check_systemd() -> None:
    """Raise ResourceError if this machine has no systemd; nothing is written then."""
    if shutil.which("systemctl") is None:
        raise ResourceError(
            "systemctl is not here, so this machine has no systemd",
            "have another program start dure with the machine",
        )


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ResourceError(f"`{' '.join(command)}` failed: {error.strerror}") from error
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no reason given"]
        raise ResourceError(f"`{' '.join(command)}` failed: {reason[0]}")
