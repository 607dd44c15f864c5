"""What this machine says of itself where it has a Raspberry Pi's tools; elsewhere these are not there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from dure.hardware.probe import health


@pytest.fixture
def vcgencmd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The firmware's tool, which prints what is in the file beside it."""
    program = tmp_path / "vcgencmd"
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/told\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "told"


@pytest.mark.parametrize(
    ("told", "throttled"),
    [
        ("throttled=0x0", ()),
        ("throttled=0x50005", ("under-voltage", "throttled")),  # and both since it started
        ("throttled=0x80008", ("soft temperature limit",)),
        ("VCHI initialization failed", ()),
        ("", ()),
    ],
)
def test_what_the_firmware_tells_is_read(
    vcgencmd: Path, tmp_path: Path, told: str, throttled: tuple[str, ...]
) -> None:
    vcgencmd.write_text(f"{told}\n")
    assert health(tmp_path).throttled == throttled


def test_an_interface_whose_speed_the_kernel_does_not_tell_is_a_link(tmp_path: Path) -> None:
    """Emulators and sandboxes refuse ethtool's question; a node would be lost with it otherwise."""
    code = (
        "import errno, pathlib\n"
        "from dure.hardware.probe import health\n"
        "from tests.support.forbidden import IOCTL, forbid\n"
        "forbid(IOCTL, errno.ENOSYS, 0x8946)\n"  # SIOCETHTOOL
        "print({link.name: link.speed_mbit for link in health(pathlib.Path('/')).links})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = ast.literal_eval(done.stdout)
    here = {link.name for link in health(tmp_path).links}
    assert "lo" in here
    assert told == dict.fromkeys(told, 0)
    assert here <= told.keys()
