"""`dure doctor` on this machine: what it prints, and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DURE = (sys.executable, "-m", "dure.cli.main")


def doctor(*arguments: object, path: str = "", status: int | None = None) -> str:
    """Run the command; path: a folder whose programs come first."""
    done = subprocess.run(
        [*DURE, "doctor", *map(str, arguments)],
        env={"PATH": f"{path}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert status is None or done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A Raspberry Pi's own program, that says that the power supply is too weak."""
    program = tmp_path / "vcgencmd"
    program.write_text("#!/bin/sh\necho throttled=0x50005\n")
    program.chmod(0o755)
    return tmp_path


def test_it_says_what_is_wrong_why_it_matters_and_what_cures_it(programs: Path) -> None:
    """And its exit status says to a script that something should be done."""
    lines = doctor(path=str(programs), status=1).splitlines()
    row = next(line for line in lines if line.startswith("serious"))
    assert "the power supply is too weak now" in row
    assert "throttled=0x50005" in row
    at = lines.index("power supply: the power supply is too weak now")
    assert "loses data" in lines[at + 1]
    assert lines[at + 2].startswith("  Cure: use the board's own power supply")
    assert not any(line.startswith("healthy") for line in lines)


def test_all_shows_what_is_healthy_too(programs: Path) -> None:
    """What is wrong still comes first."""
    lines = doctor("--all", path=str(programs)).splitlines()
    states = [line.split()[0] for line in lines[1:] if line[:1].isalpha()]
    assert states.index("serious") < states.index("healthy")


def test_json_has_every_field_of_a_finding(programs: Path) -> None:
    """A program can tell what is wrong, and whether --fix can cure it."""
    found = json.loads(doctor("--json", path=str(programs), status=1))
    supply = next(one for one in found if one["check"] == "under-voltage")
    assert supply.pop("why")
    assert supply.pop("cure")
    assert supply == {
        "check": "under-voltage",
        "subject": "power supply",
        "severity": "serious",
        "what": "the power supply is too weak now",
        "evidence": "throttled=0x50005",
        "machine": "",
        "can_fix": False,
    }
    assert len({one["check"] for one in found}) > 12
