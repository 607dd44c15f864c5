"""The unit that keeps `dure serve` running, and what is checked before it is installed.

Knows what of this place a service must be told, as it starts elsewhere: the folder, and variables.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dure.errors import ResourceError, UsageError
from dure.systemd import Service, command_line, plain, quoted

__all__ = ["SERVE_UNIT", "check_model", "environment_of", "unit_text"]

SERVE_UNIT = "dure-serve.service"
LAST_WORDS_S = 15.0  # beyond the deadline, for the ranks to end
_DURE = [sys.executable, "-m", "dure.cli.main"]
_SECRET = {"DURE_API_KEYS", "DURE_API_KEY", "DURE_SERVE_API_KEY"}
_HOMES = ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME")
_TEXT = """\
[Unit]
Description=dure serve: a language model
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={command}
WorkingDirectory={directory}
{environment}{user}Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2
SuccessExitStatus=143
KillMode=mixed
TimeoutStopSec={stop_s:.0f}
LimitMEMLOCK=infinity
NoNewPrivileges=yes
ProtectSystem=full

[Install]
WantedBy={target}
"""


def environment_of(service: Service) -> dict[str, str]:
    """Return the variables that the service gets: those set here that `dure` reads.

    Raises UsageError for a secret: everybody may read a unit.
    """
    if secrets := sorted(name for name in _SECRET if os.environ.get(name)):
        raise UsageError(
            f"{secrets[0]} is set, and would not be in the unit, which everybody may read",
            "put the keys in a file for --api-key-file, and unset it",
        )
    homes = () if service.of_system else _HOMES  # with sudo, they would be root's
    kept = {name for name in os.environ if name.startswith("DURE_")} | {*homes}
    return {name: os.environ[name] for name in sorted(kept) if os.environ.get(name)}


def unit_text(
    service: Service,
    words: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    stop_s: float,
) -> str:
    """Return the unit. words: of `dure serve`. stop_s: for running answers. Raises UsageError.

    A request that cannot be met (exit code 2) is not tried again, as it cannot be met a second time.
    """
    if any(word.partition("=")[0] == "--api-key" for word in words):
        raise UsageError(
            "--api-key would be in the unit, which everybody may read",
            "put the keys in a file for --api-key-file",
        )
    variables = (quoted(f"{name}={value}") for name, value in environment.items())
    return _TEXT.format(
        command=command_line(_DURE[0], [*_DURE[1:], "serve", *words]),
        directory=plain(str(directory)),
        environment="".join(f"Environment={variable}\n" for variable in variables),
        user=service.who,
        stop_s=stop_s + LAST_WORDS_S,
        target=service.target,
    )


def check_model(
    service: Service, model: str, directory: Path, environment: Mapping[str, str]
) -> None:
    """Look whether the service's user can run dure and has the model.

    Raises ResourceError if that user may not read dure or the folder, UsageError if the model is missing.
    """
    shown = [*_DURE, "show", model, "--here", "--json"]
    environment = {"PATH": os.environ.get("PATH", os.defpath), **environment}
    environment["HOME"] = str(service.home)
    try:
        done = _run_as(service, shown, directory, environment)
    except PermissionError as error:
        raise ResourceError(
            f"{service.user} may not use {error.filename or directory}",
            "install dure where that user may read it, and type this in a folder that is theirs",
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"`dure show` ends with {done.returncode}"])[
            -1
        ]
        raise UsageError(f"{service.user} cannot serve {model}: {last.removeprefix('dure: ')}")


def _run_as(
    service: Service, command: list[str], directory: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command with the rights of the service's user."""
    found = pwd.getpwnam(service.user)
    user, group, groups = (
        (found.pw_uid, found.pw_gid, os.getgrouplist(service.user, found.pw_gid))
        if service.of_system
        else (None, None, None)
    )
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        user=user,
        group=group,
        extra_groups=groups,
        capture_output=True,
        text=True,
        check=False,
    )
