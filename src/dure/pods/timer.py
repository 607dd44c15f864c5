"""The guard at home as a timer of systemd: a round every minute, from the machine's start on.

Knows the two units. Refuses to put a key into one, as everybody may read them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from dure.errors import ResourceError, UsageError
from dure.places import pods_directory
from dure.pods.decide import ROUND_S
from dure.pods.guard import AT_HOME
from dure.pods.ledger import Ledger
from dure.systemd import Service, command_line, quoted

__all__ = ["TIMER", "guard_is_armed", "install_guard", "uninstall_guard"]

TIMER = "dure-pod-guard.timer"
_SERVICE = "dure-pod-guard.service"
_MISSED = 3  # rounds, after which a guard counts as dead
_KEPT = ("DURE_POD_KEY_FILE", "RUNPOD_API_BASE_URL")
_SERVICE_TEXT = """\
[Unit]
Description=dure pod guard: ends rented pods at their limits
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
ExecStart={command}
{environment}{user}TimeoutStartSec=300
NoNewPrivileges=yes
"""
_TIMER_TEXT = """\
[Unit]
Description=dure pod guard: every minute

[Timer]
OnBootSec={round_s}
OnUnitActiveSec={round_s}
AccuracySec=1
Unit={service}

[Install]
WantedBy=timers.target
"""


def guard_is_armed(ledger: Ledger) -> bool:
    """Return whether a guard at home has looked at every pod lately."""
    return 0 <= time.time() - ledger.last_round(AT_HOME) < _MISSED * ROUND_S


def install_guard(timer: Service) -> None:
    """Install the timer, and have it make its first round.

    Raises UsageError for a key in the environment, ResourceError if systemd refuses or no round is made:
    then the guard is not armed.
    """
    if os.environ.get("RUNPOD_API_KEY"):
        raise UsageError(
            "the key is in RUNPOD_API_KEY, where a service does not find it",
            "write it into a file with mode 600, name that by DURE_POD_KEY_FILE, and unset RUNPOD_API_KEY",
        )
    service, directory = replace(timer, unit=_SERVICE), _ledger_of(timer)
    began = time.time()
    try:
        timer.units.mkdir(parents=True, exist_ok=True)
        service.path.write_text(_service_text(service, directory))
    except OSError as error:
        raise ResourceError(f"cannot write {service.path}: {error.strerror}") from error
    timer.install(_TIMER_TEXT.format(round_s=ROUND_S, service=_SERVICE))
    control = ["systemctl", *([] if timer.of_system else ["--user"]), "start", _SERVICE]
    done = subprocess.run(control, capture_output=True, text=True, check=False)
    ledger = Ledger(directory)
    last = ledger.last_round(AT_HOME)
    ledger.close()
    if last < began:
        reason = (done.stderr.strip().splitlines() or ["it made no round"])[-1]
        raise ResourceError(
            f"the guard is installed and not armed: {reason}", f"see `{service.log}`"
        )


def uninstall_guard(timer: Service) -> None:
    """Stop the timer, and remove both units. Raises UsageError if there is none."""
    timer.uninstall()
    replace(timer, unit=_SERVICE).path.unlink(missing_ok=True)


def _ledger_of(timer: Service) -> Path:
    """Return the directory of the user's ledger: DURE_PODS, or below that user's home."""
    if os.environ.get("DURE_PODS") or not timer.of_system:
        return pods_directory().absolute()
    return timer.home / ".local" / "state" / "dure" / "pods"


def _service_text(service: Service, directory: Path) -> str:
    variables = {"DURE_PODS": str(directory)}
    variables |= {name: os.environ[name] for name in _KEPT if os.environ.get(name)}
    if key_file := variables.get("DURE_POD_KEY_FILE"):
        variables["DURE_POD_KEY_FILE"] = str(Path(key_file).expanduser().absolute())
    words = ["-m", "dure.cli.main", "pod", "guard", "--once", "--again"]
    return _SERVICE_TEXT.format(
        command=command_line(sys.executable, words),
        environment="".join(
            f"Environment={quoted(f'{name}={value}')}\n" for name, value in variables.items()
        ),
        user=service.who,
    )
