"""What this machine says of itself where it has a Raspberry Pi's tools; elsewhere these are not there."""

from __future__ import annotations

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
