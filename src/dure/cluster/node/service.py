"""The node as a systemd service: it starts with the machine, as a user without privileges.

Knows the unit's file and systemctl. With root's rights it becomes a service of the system, for a user that
is named; without, one of the user's own, which lingers when nobody is logged in.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dure.cluster.software import NODE_UNIT
from dure.cluster.trust.joining import NodeFile
from dure.errors import ResourceError, UsageError
from dure.places import node_directory

__all__ = ["Service", "service_for"]

_SYSTEM_UNITS = Path("/etc/systemd/system")
_TEXT = """\
[Unit]
Description=dure node: this machine's share of a language model
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={command}
Environment={environment}
{user}Restart=always
RestartSec=2
KillMode=mixed
TimeoutStopSec=10
LimitMEMLOCK=infinity
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={directory} /tmp /dev/shm

[Install]
WantedBy={target}
"""


@dataclass(frozen=True)
class Service:
    """Install and remove the node's service.

    user: whose rights it has. of_system: it is systemd's own, not the user's. units: where units lie.
    """

    user: str
    of_system: bool
    units: Path

    @property
    def path(self) -> Path:
        """The unit's file."""
        return self.units / NODE_UNIT

    def text(self, directory: Path, options: Sequence[str] = ()) -> str:
        """Return the unit for the node in `directory`. options: of `dure node run`."""
        words = [sys.executable, "-m", "dure.cli.main", "node", "run", *options]
        return _TEXT.format(
            command=" ".join(_quoted(word.replace("$", "$$")) for word in words),
            environment=_quoted(f"DURE_NODE_DIR={directory}"),
            directory=_quoted(str(directory)),
            user=f"User={self.user}\n" if self.of_system else "",
            target="multi-user.target" if self.of_system else "default.target",
        )

    @property
    def node_directory(self) -> Path:
        """The directory of this user's node: DURE_NODE_DIR, or below the user's home."""
        named = os.environ.get("DURE_NODE_DIR")
        if named or not self.of_system:
            return node_directory()
        return Path(pwd.getpwnam(self.user).pw_dir) / ".local" / "share" / "dure" / "node"

    def install(self, options: Sequence[str] = ()) -> None:
        """Write the unit, and start it now and with every start of the machine.

        options: of `dure node run`. Raises ClusterError if the user's node has not joined, ResourceError
        if systemd refuses.
        """
        directory = self.node_directory
        NodeFile.read(directory)
        if directory.stat().st_uid != pwd.getpwnam(self.user).pw_uid:
            raise UsageError(
                f"{directory} is not {self.user}'s",
                f"join as the user that the node runs as, with `sudo -u {self.user} dure join CODE`",
            )
        text = self.text(directory, options)
        try:
            self.units.mkdir(parents=True, exist_ok=True)
            self.path.write_text(text)
        except OSError as error:
            raise ResourceError(f"cannot write {self.path}: {error.strerror}") from error
        self._systemctl("daemon-reload")
        self._systemctl("enable", "--now", NODE_UNIT)
        self._systemctl("restart", NODE_UNIT)  # it may run already, with an older unit
        if not self.of_system:
            _run(["loginctl", "enable-linger", self.user])

    def uninstall(self) -> None:
        """Stop the service and remove its unit. Raises UsageError if there is none."""
        if not self.path.exists():
            raise UsageError(f"no service is installed: {self.path} is not there")
        self._systemctl("disable", "--now", NODE_UNIT)
        self.path.unlink()
        self._systemctl("daemon-reload")

    def _systemctl(self, *arguments: str) -> None:
        _run(["systemctl", *([] if self.of_system else ["--user"]), *arguments])


def _quoted(word: str) -> str:
    """Return a word as systemd reads it from a unit (systemd.syntax(7)). Raises UsageError."""
    if not word.isprintable():
        raise UsageError(
            f"{word!r} cannot stand in a unit", "use a name without control characters"
        )
    escaped = word.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if re.search(r"[\s\"'\\;#]", word) else escaped


def service_for(user: str | None) -> Service:
    """Return the service that this process may install. user: whom it runs as, if root asks.

    Raises UsageError if that would be root, or nobody.
    """
    if os.geteuid() != 0:
        own = pwd.getpwuid(os.geteuid()).pw_name
        if user not in {None, own}:
            raise UsageError(
                f"only root installs a service for {user}", "use sudo, or leave out --user"
            )
        return Service(own, False, Path.home() / ".config" / "systemd" / "user")
    named = user or os.environ.get("SUDO_USER", "")
    if not named or named == "root":
        raise UsageError(
            "a node needs no rights of root",
            "name the user it runs as with --user, as in --user pi",
        )
    try:
        pwd.getpwnam(named)
    except KeyError:
        raise UsageError(
            f"there is no user {named}", f"make one with `adduser --system {named}`"
        ) from None
    return Service(named, True, _SYSTEM_UNITS)


def _run(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        raise ResourceError(
            f"{command[0]} is not here",
            "this machine has no systemd; start `dure node` another way",
        )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no reason given"]
        raise ResourceError(f"`{' '.join(command)}` failed: {reason[0]}")
