"""`dure doctor --fix` and `--undo` as a person runs them: every setting that a check would change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.needs_root import needs_root
from tests.support.system_programs import programs_with_state

DURE = (sys.executable, "-m", "dure.cli.main")
NETWORK = "192.168.1.0/24"


@dataclass
class Computer:
    """A computer with other people's programs that remember what they were told."""

    directory: Path
    before: tuple[str, ...] = ()

    @property
    def state(self) -> Path:
        return self.directory / "bin" / "state"

    def doctor(self, *arguments: str) -> tuple[int, Any]:
        """What the doctor prints as JSON, and its exit status."""
        done = subprocess.run(
            [*self.before, *DURE, "doctor", *arguments, "--json"],
            env={
                "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
                "HOME": str(self.directory),
                "DURE_NODE_DIR": str(self.directory / "node"),
                "DURE_DOCTOR": str(self.directory / "doctor.json"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def findings(self, check: str) -> list[Any]:
        return [one for one in self.doctor()[1] if one["check"] == check]


def computer(directory: Path, *, is_node: bool = False, **changes: str) -> Computer:
    """Make one whose state is healthy, but for these changes."""
    programs_with_state(directory / "bin", **changes)
    if is_node:
        (directory / "node").mkdir()
        record = {"name": "pi-1", "cluster": "home", "port": 7474}
        (directory / "node" / "node.json").write_text(json.dumps(record))
        units = directory / ".config" / "systemd" / "user"
        units.mkdir(parents=True)
        (units / "dure-node.service").write_text("[Unit]\n")
    return Computer(directory)


def fixes_of(told: Any, check: str) -> list[Any]:
    return [one for one in told["fixes"] if one["check"] == check]


SICK = {"gro": "on", "eee": "enabled - active", "ntp": "no", "usecs": "57"}
CHANGES = {
    "gathered-packets": ("gro:eth0", "on", "off"),
    "sleeping-link": ("eee:eth0", "on", "off"),
    "time": ("ntp", "no", "yes"),
    "agent": ("unit:user:dure-node.service", "disabled", "enabled"),
    "firewall": (f"ufw:{NETWORK}", "none", "allow"),
}


@pytest.mark.parametrize(
    ("adaptive", "before", "after"),
    [
        ("on", "adaptive-rx on rx-usecs 57", "adaptive-rx off rx-usecs 0"),
        ("n/a", "rx-usecs 57", "rx-usecs 0"),
    ],
)
def test_each_setting_of_a_program_is_changed_checked_and_taken_back(
    tmp_path: Path, adaptive: str, before: str, after: str
) -> None:
    """The findings are gone afterwards; undone, the programs have their old state, and all are back."""
    here = computer(tmp_path, is_node=True, **SICK, adaptive=adaptive)
    wanted = {**CHANGES, "coalescing": ("coalescing:eth0", before, after)}
    told = here.doctor("--fix", "--yes")[1]
    assert {one["check"] for one in told["findings"] if one["can_fix"]} >= wanted.keys()
    for check, expected in wanted.items():
        [fixed] = fixes_of(told, check)
        assert fixed["problem"] == "", fixed
        [changed] = fixed["change"]["settings"]
        assert (changed["setting"], changed["before"], changed["after"]) == expected
    found = here.doctor()[1]
    assert not {one["check"] for one in found if one["can_fix"]} & wanted.keys()

    status, undone = here.doctor("--undo")
    assert status == 0
    assert {one["change"]["check"] for one in undone if one["undone"]} >= wanted.keys()
    found = here.doctor()[1]
    assert {one["check"] for one in found if one["can_fix"]} >= wanted.keys()
    assert (here.state / "ufw").read_text().strip() == ""
    assert (here.state / "usecs").read_text().strip() == "57"


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("refuses", "gro:eth0 cannot be changed (`ethtool -K eth0 gro off` says: Operation not"),
        ("forgets", "it was changed back, as it did not help: eth0: GRO on"),
    ],
)
def test_a_change_that_is_refused_or_has_no_effect_is_told(
    tmp_path: Path, how: str, problem: str
) -> None:
    """Nothing is left to be undone."""
    here = computer(tmp_path, gro="on")
    (here.state / how).write_text("")
    [fixed] = fixes_of(here.doctor("--fix", "--yes")[1], "gathered-packets")
    assert fixed["change"] is None
    assert problem in fixed["problem"]
    undone = here.doctor("--undo")[1]
    assert "gathered-packets" not in {one["change"]["check"] for one in undone}


CPU = "/sys/devices/system/cpu"


@needs_root
def test_a_governor_and_a_capped_clock_of_the_kernel_are_cured_and_taken_back(
    tmp_path: Path,
) -> None:
    """In the kernel's own folder of clocks, which a mount fills: virtual machines have none."""
    here = computer(tmp_path)
    clocks = tmp_path / "clocks"
    policy = clocks / "policy0"
    policy.mkdir(parents=True)
    files = {
        "scaling_governor": "ondemand",
        "scaling_available_governors": "performance ondemand",
        "scaling_max_freq": "1500000",
        "cpuinfo_max_freq": "2400000",
    }
    for name, text in files.items():
        (policy / name).write_text(f"{text}\n")
    mounted = f'mount --bind "$0" {CPU}/cpufreq && exec "$@"'
    here.before = ("unshare", "--mount", "sh", "-c", mounted, str(clocks))
    assert {one["evidence"] for one in here.findings("governor")} == {
        "ondemand",
        "1500 of 2400 MHz",
    }
    fixed = fixes_of(here.doctor("--fix", "--yes")[1], "governor")
    assert [one["problem"] for one in fixed] == ["", ""]
    assert (policy / "scaling_governor").read_text() == "performance"
    assert (policy / "scaling_max_freq").read_text() == "2400000"
    assert [one["severity"] for one in here.findings("governor")] == ["healthy"]
    here.doctor("--undo")
    assert (policy / "scaling_governor").read_text() == "ondemand"
    assert (policy / "scaling_max_freq").read_text() == "1500000"
