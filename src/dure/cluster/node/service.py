"""The node as a systemd service: it starts with the machine, as a user without privileges.

Knows the unit's text, and whose node it may be.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path

from dure.cluster.trust.joining import NodeFile
from dure.errors import UsageError
from dure.places import node_directory
from dure.systemd import Service, command_line, quoted

__all__ = ["install_node"]

_TEXT = """\
[Unit]
Description=dure node: this machine's share of a language model
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0
ConditionPathExists={node_file}

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


def install_node(service: Service, options: Sequence[str] = ()) -> None:
    """Install the service of the node of its user. options: of `dure node run`.

    Raises ClusterError if the user's node has not joined, ResourceError if systemd refuses.
    """
    directory = _directory(service)
    NodeFile.read(directory)
    if directory.stat().st_uid != pwd.getpwnam(service.user).pw_uid:
        raise UsageError(
            f"{directory} is not {service.user}'s",
            f"join as the user that the node runs as, with `sudo -u {service.user} dure join CODE`",
        )
    service.install(_text(service, directory, options))


def _text(service: Service, directory: Path, options: Sequence[str]) -> str:
    return _TEXT.format(
        command=command_line(sys.executable, ["-m", "dure.cli.main", "node", "run", *options]),
        environment=quoted(f"DURE_NODE_DIR={directory}"),
        directory=quoted(str(directory)),
        user=service.who,
        target=service.target,
        node_file=str(directory / "node.json").replace("%", "%%"),  # as long as it has not left
    )


def _directory(service: Service) -> Path:
    """Return the directory of this user's node: DURE_NODE_DIR, or below the user's home."""
    named = os.environ.get("DURE_NODE_DIR")
    if named or not service.of_system:
        return node_directory()
    return service.home / ".local" / "share" / "dure" / "node"
