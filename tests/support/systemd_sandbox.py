"""A machine whose systemd is only told what it would do: systemctl and loginctl write down their words.

Knows a mount namespace in which /etc/systemd/system is empty. Needs root.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["SystemdSandbox"]


class SystemdSandbox:
    """told: the file of what systemd was told. SYSTEMCTL_SAYS: the status with which it answers.

    mounts: shell commands that hide more. unset: beginnings of variables that the script does not get.
    """

    def __init__(
        self, directory: Path, mounts: Sequence[str] = (), unset: tuple[str, ...] = ("SUDO_USER",)
    ) -> None:
        self.told, self.programs = directory / "told", directory / "programs"
        self._mounts, self._unset = mounts, unset
        self.programs.mkdir()
        for name in ("systemctl", "loginctl"):
            program = self.programs / name
            program.write_text(
                f'#!/bin/sh\necho "$@" >> {self.told}\nexit ${{SYSTEMCTL_SAYS:-0}}\n'
            )
            program.chmod(0o755)

    def run_in(
        self, folder: Path | None, script: str, environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script in a folder, as root."""
        hidden = ["mount -t tmpfs none /etc/systemd/system", *self._mounts]
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", " && ".join([*hidden, script])],
            cwd=folder,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith(self._unset)},
                "PATH": f"{self.programs}:{os.environ['PATH']}",
                "COLUMNS": "200",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
