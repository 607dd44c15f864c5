"""`deploy/install.sh`: what it looks at, says and takes away; and that all shell scripts are of POSIX."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
SCRIPTS = [DEPLOY / "install.sh", *sorted(DEPLOY.glob("container/*.sh"))]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="apt install shellcheck")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_of_posix_and_have_no_faults(script: Path) -> None:
    done = subprocess.run(
        ["shellcheck", "--shell=sh", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def install(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the install script as a user whose home this is."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    return subprocess.run(
        ["/bin/sh", DEPLOY / "install.sh", *arguments],
        env={**kept, "HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    done = install(tmp_path, "--dry-run", PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/.local/share/dure/venv" in done.stdout
    assert f"--upgrade {DEPLOY.parent}" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named_with_its_cure_and_nothing_is_installed(tmp_path: Path) -> None:
    """All of it at once: here programs, since the PATH has only what the script itself needs."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("awk", "cat", "df", "dirname", "getconf", "uname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    home = tmp_path / "home"
    home.mkdir()
    done = install(home, PATH=str(programs))
    assert done.returncode == 1
    assert "missing: Python 3.11 or newer" in done.stderr
    assert "missing: a C and C++ compiler" in done.stderr
    assert "sudo apt install build-essential" in done.stderr
    assert "Nothing was installed: 2 missing." in done.stderr
    assert list(home.iterdir()) == []


def test_only_what_the_script_installed_is_taken_away(tmp_path: Path) -> None:
    """Models stay, and a `dure` that is not its link."""
    venv, own = tmp_path / ".local/share/dure/venv", tmp_path / ".local/bin/dure"
    model = tmp_path / ".local/share/dure/models/a.gguf"
    for path in (venv / "bin/dure", model, own.with_name("other")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    own.symlink_to(venv / "bin/dure")
    assert install(tmp_path, "--uninstall").returncode == 0
    assert (venv.exists(), own.is_symlink(), model.exists()) == (False, False, True)
    again = install(tmp_path, "--uninstall")
    assert "is not installed here" in again.stdout
    own.write_text("another program")
    venv.mkdir()
    assert install(tmp_path, "--uninstall").returncode == 0
    assert own.read_text() == "another program"


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    done = install(tmp_path, "--unistall")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--unistall: no such option" in done.stderr
