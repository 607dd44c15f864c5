"""Settings of a machine: read and written as its kernel and its programs have them, and no others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dure.errors import ResourceError, UsageError
from dure.hardware.settings import MachineSettings, is_set
from tests.support.machine_roots import COALESCE, CPU, write_root
from tests.support.needs_root import needs_root

GOVERNOR = f"file:{CPU}/cpufreq/policy0/scaling_governor"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (GOVERNOR, "performance"),
        ("file:/proc/sys/net/ipv4/tcp_rmem", "4096 131072 6291456"),
        ("gro:eth0", "off"),
        ("eee:eth0", "off"),
        ("coalescing:eth0", "adaptive-rx off rx-usecs 0"),
        ("ntp", "yes"),
        ("unit:system:dure-node.service", "enabled"),
        ("ufw:192.168.1.0/24", "allow"),
        ("ufw:10.0.0.0/8", "none"),
        ("ranks:priority", "0"),
    ],
)
def test_a_setting_is_read_as_words(tmp_path: Path, name: str, value: str) -> None:
    """Each kind, from what a board's files and programs say."""
    state = "systemctl show --property=UnitFileState --value dure-node.service"
    root = write_root(
        tmp_path,
        {
            "commands/timedatectl show --property=NTP --value": "yes\n",
            f"commands/{state}": "enabled\n",
            "commands/ufw show added": "Added user rules:\nufw allow from 192.168.1.0/24\n",
        },
    )
    assert MachineSettings(root).read(name) == value


def test_the_priority_of_ranks_is_kept_in_a_file(tmp_path: Path) -> None:
    """One that the kernel gives to every program; what it keeps for others is refused."""
    settings = MachineSettings(write_root(tmp_path))
    settings.write("ranks:priority", "6")
    assert settings.read("ranks:priority") == "6"
    for value in ("7", "-1", "high"):
        with pytest.raises(UsageError, match="is no value of ranks:priority"):
            settings.write("ranks:priority", value)
    settings.write("ranks:priority", "0")
    assert settings.read("ranks:priority") == "0"


@needs_root
def test_a_file_that_sudo_makes_in_a_users_folder_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the user's own agent could not change it, nor make others beside it."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 1234, 1234)
    monkeypatch.setenv("DURE_NODE_DIR", str(home / "share" / "node"))
    MachineSettings().write("ranks:priority", "6")
    made = [home / "share", home / "share" / "node", home / "share" / "node" / "rank-priority"]
    assert {(one.stat().st_uid, one.stat().st_gid) for one in made} == {(1234, 1234)}


def test_coalescing_that_cannot_adapt_has_fewer_words(tmp_path: Path) -> None:
    """Setting what it cannot do would fail."""
    coalesce = COALESCE.format(us=57, adaptive="n/a")
    root = write_root(tmp_path, {"commands/ethtool -c eth0": coalesce})
    assert MachineSettings(root).read("coalescing:eth0") == "rx-usecs 57"


def test_a_file_of_the_kernel_is_written(tmp_path: Path) -> None:
    """A shorter value replaces a longer one."""
    settings = MachineSettings(write_root(tmp_path))
    settings.write(GOVERNOR, "ondemand")
    assert settings.read(GOVERNOR) == "ondemand"


@pytest.mark.parametrize(
    "name",
    [
        "file:/etc/passwd",
        f"file:{CPU}/cpufreq/policy0/../../../../../etc/passwd",
        "file:/proc/sys/kernel/core_pattern",
        "gro:eth0; reboot",
        "unit:root:x",
        "sudo",
        "",
    ],
)
def test_what_is_no_setting_of_the_doctor_is_refused(tmp_path: Path, name: str) -> None:
    """A root may ask a node for settings only: not for any file or command."""
    settings = MachineSettings(write_root(tmp_path))
    with pytest.raises(UsageError):
        settings.read(name)
    with pytest.raises(UsageError):
        settings.write(name, "1")


def test_what_the_machine_lacks_is_an_error_that_names_it(tmp_path: Path) -> None:
    """As a device that cannot sleep."""
    settings = MachineSettings(write_root(tmp_path))
    with pytest.raises(ResourceError, match="eee:eth1: this machine has no such setting"):
        settings.read("eee:eth1")
    with pytest.raises(ResourceError, match="cannot be changed"):
        settings.write("file:/sys/class/net/eth7/mtu", "1500")


def test_a_value_may_say_more_than_was_wanted() -> None:
    """The kernel has more words for some settings."""
    assert is_set("adaptive-rx off rx-usecs 0", "rx-usecs 0")
    assert not is_set("rx-usecs 057", "rx-usecs 0")
    assert not is_set("rx-usecs 0", "rx-usecs 05")
