"""What can be made true on this machine is: a full disk, limits of a real control group, and files that the
kernel has on other machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.control_groups import real_group
from tests.support.needs_root import needs_root

DURE = (sys.executable, "-m", "dure.cli.main")
FILL = 'mount -t tmpfs -o size=8m models "$0" && head -c 8300000 /dev/zero > "$0"/model; exec "$@"'
HEAT = (
    'mount --bind "$0/cpu" /sys/devices/system/cpu/cpu0 && '
    'mount --bind "$0/thermal" /sys/class/thermal && exec "$@"'
)


def examined(*before: str, **environment: str) -> dict[str, dict[str, Any]]:
    """What the doctor finds, by check. before: the command that runs it."""
    done = subprocess.run(
        [*before, *DURE, "doctor", "--json"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return {one["check"]: one for one in reversed(json.loads(done.stdout))}


@needs_root
def test_a_full_disk_is_serious(tmp_path: Path) -> None:
    """A file system of 8 MB, on which a model lies that fills it."""
    hidden = ("unshare", "--mount", "sh", "-c", FILL, str(tmp_path))
    found = examined(*hidden, DURE_MODELS=str(tmp_path))["disk-room"]
    assert found["severity"] == "serious"
    assert "of 8.4 MB free for models" in found["evidence"]


def test_the_limits_of_a_real_control_group_are_found() -> None:
    """Memory and cores, with the file that says it."""
    with real_group() as group:
        group.limit_memory(3_000_000_000)
        group.limit_cpus(0.5)
        found = examined(*group.command())["limits"]
    assert found["severity"] == "warning"
    assert "3.0 GB of" in found["evidence"]
    assert "0.5 of" in found["evidence"]
    assert found["evidence"].count(group.name) == 2


@needs_root
def test_the_kernels_own_files_say_that_heat_made_the_processor_slower(tmp_path: Path) -> None:
    """What a hot machine has in /sys, where mounts put it: this one may be virtual, and has no sensor."""
    files = {
        "cpu/topology/thread_siblings_list": "0",
        "cpu/thermal_throttle/core_throttle_count": "17",
        "thermal/thermal_zone0/type": "x86_pkg_temp",
        "thermal/thermal_zone0/temp": "97000",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    hot = ("unshare", "--mount", "sh", "-c", HEAT, str(tmp_path))
    found = examined(*hot)
    assert found["throttling"]["evidence"] == "17 times since the start"
    assert found["temperature"]["severity"] == "serious"
    assert "97 °C" in found["temperature"]["evidence"]


@needs_root
def test_sudo_examines_the_files_of_whoever_typed_it() -> None:
    """Root has no models, and no node."""
    environment = {"SUDO_USER": "daemon", "HOME": "/root", "DURE_MODELS": ""}
    assert examined(**environment)["disk-room"]["evidence"].endswith("in /usr/sbin")
