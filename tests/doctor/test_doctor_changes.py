"""Changes are written down first, then made, checked, and taken back, also after a process was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from dure.doctor.changes import HERE, ChangeJournal, apply, undo
from dure.doctor.checks import CHECKS
from dure.doctor.finding import SettingValue, judged
from dure.doctor.fixing import fix
from dure.errors import BusyError, ResourceError
from dure.hardware.examination.condition import Condition
from dure.hardware.settings import MachineSettings
from tests.support.machine_roots import CPU, Files, condition_of, write_root

ROOT = Path(__file__).parents[2]
POLICY = f"{CPU}/cpufreq/policy0"
GOVERNOR, MOST = f"file:{POLICY}/scaling_governor", f"file:{POLICY}/scaling_max_freq"
SLOW: Files = {f"{POLICY}/scaling_governor": "ondemand\n"}
WANTED = [SettingValue(GOVERNOR, "performance"), SettingValue(MOST, "2400000")]


class RecordedMachine:
    """A recorded board, as the doctor has this machine."""

    name = HERE

    def __init__(self, root: Path) -> None:
        self.root, self.settings = root, MachineSettings(root)

    def condition(self, only: Collection[str] = ()) -> Condition:  # noqa: ARG002
        files = (GOVERNOR, MOST)
        now: Files = {one[5:]: self.settings.read(one) for one in files}
        return condition_of(self.root, now)


@pytest.fixture
def journal(tmp_path: Path) -> ChangeJournal:
    return ChangeJournal(tmp_path / "state" / "doctor.json")


def test_a_finding_is_cured_and_the_change_is_kept(tmp_path: Path, journal: ChangeJournal) -> None:
    """The check finds nothing any more, and undoing brings the finding back."""
    patient = RecordedMachine(write_root(tmp_path / "root", SLOW))
    [sick] = [one for one in judged(CHECKS, patient.condition()) if one.fix]
    result = fix(sick, patient, journal)
    assert result.problem == ""
    assert patient.settings.read(GOVERNOR) == "performance"
    assert [one for one in judged(CHECKS, patient.condition()) if one.fix] == []
    [change] = journal.read()
    assert (change.check, change.settings[0].before) == ("governor", "ondemand")
    undone = undo(lambda _: patient.settings, journal, change)
    assert undone.restored == (GOVERNOR,)
    assert patient.settings.read(GOVERNOR) == "ondemand"
    assert journal.read() == []


def test_a_change_that_does_not_help_is_taken_back(tmp_path: Path, journal: ChangeJournal) -> None:
    """A second group of cores stays slow: its folder holds no file that could be written."""

    class Forgetful(RecordedMachine):
        def condition(self, only: Collection[str] = ()) -> Condition:  # noqa: ARG002
            return condition_of(tmp_path / "other", SLOW)

    patient = Forgetful(write_root(tmp_path / "root", SLOW))
    [sick] = [one for one in judged(CHECKS, patient.condition()) if one.fix]
    result = fix(sick, patient, journal)
    assert "did not help" in result.problem
    assert patient.settings.read(GOVERNOR) == "ondemand"
    assert journal.read() == []


def test_if_one_setting_cannot_be_changed_none_is(tmp_path: Path, journal: ChangeJournal) -> None:
    """What was changed before the failure is as it was."""
    root = write_root(tmp_path, SLOW)
    settings = MachineSettings(root)
    wanted = [WANTED[0], SettingValue("gro:eth0", "on")]  # a recording runs no programs
    with pytest.raises(ResourceError, match="gro:eth0 cannot be changed"):
        apply(settings, journal, "governor", "slow", wanted)
    assert settings.read(GOVERNOR) == "ondemand"
    assert journal.read() == []


def test_what_somebody_else_changed_since_stays(tmp_path: Path, journal: ChangeJournal) -> None:
    """The rest is taken back."""
    settings = MachineSettings(write_root(tmp_path, {**SLOW, MOST[5:]: "1500000"}))
    change = apply(settings, journal, "governor", "slow", WANTED)
    settings.write(GOVERNOR, "powersave")
    undone = undo(lambda _: settings, journal, change)
    assert (undone.restored, undone.left_alone) == ((MOST,), (GOVERNOR,))
    assert settings.read(GOVERNOR) == "powersave"


KILLED = """
import os, signal, sys
from pathlib import Path
from dure.doctor.changes import ChangeJournal, apply
from dure.doctor.finding import SettingValue
from dure.hardware.settings import MachineSettings

class Settings(MachineSettings):
    left = int(sys.argv[3])
    def write(self, name, value):
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        Settings.left -= 1
        super().write(name, value)

wanted = [SettingValue(*one.split("=")) for one in sys.argv[4:]]
apply(Settings(Path(sys.argv[1])), ChangeJournal(Path(sys.argv[2])), "governor", "slow", wanted)
"""


@pytest.mark.parametrize("n_written", [0, 1])
def test_a_process_that_is_killed_amid_a_change_leaves_what_undo_needs(
    tmp_path: Path, n_written: int
) -> None:
    """Before the first setting was written, and between the first and the second."""
    root, path = write_root(tmp_path / "root", {**SLOW, MOST[5:]: "1500000"}), tmp_path / "d.json"
    words = [f"{one.setting}={one.value}" for one in WANTED]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, root, path, str(n_written), *words], cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL
    settings, journal = MachineSettings(root), ChangeJournal(path)
    [change] = journal.read()
    undone = undo(lambda _: settings, journal, change)
    assert undone.restored == (GOVERNOR,)[:n_written]
    assert settings.read(GOVERNOR) == "ondemand"
    assert settings.read(MOST) == "1500000"
    assert journal.read() == []


def test_two_doctors_do_not_change_settings_at_once(tmp_path: Path) -> None:
    """The second is told."""
    path = tmp_path / "doctor.json"
    with ChangeJournal(path).held(), pytest.raises(BusyError), ChangeJournal(path).held():
        pass


def test_a_damaged_file_is_no_licence_to_forget(tmp_path: Path) -> None:
    """It is reported, with its name."""
    path = tmp_path / "doctor.json"
    path.write_text("{")
    with pytest.raises(ResourceError, match=r"doctor\.json cannot be read"):
        ChangeJournal(path).read()
