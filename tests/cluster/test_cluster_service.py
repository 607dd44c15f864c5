"""The node's systemd service. There is no systemd in a test: what would be told to it is written down.

The units' directory is hidden by an empty one in a mount namespace, so nothing of this machine changes.
"""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs_root import needs_root
from tests.support.systemd_sandbox import SystemdSandbox

pytestmark = needs_root

DURE = f"{sys.executable} -m dure.cli.main"
UNIT = "/etc/systemd/system/dure-node.service"
USER = "games"


class Sandbox(SystemdSandbox):
    """A machine with a node of the user games."""

    def __init__(self, directory: Path, node: str = "node") -> None:
        super().__init__(directory)
        self.node = directory / node
        self.node.mkdir()
        (self.node / "node.json").write_text('{"name": "pi-1", "cluster": "home", "port": 7474}')
        os.chown(self.node, pwd.getpwnam(USER).pw_uid, -1)

    def run(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script there, as root."""
        return self.run_in(None, script, {"DURE_NODE_DIR": str(self.node), **environment})


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    tmp_path.chmod(0o755)
    return Sandbox(tmp_path)


def test_it_is_installed_started_and_removed(sandbox: Sandbox) -> None:
    """systemd finds nothing wrong in the unit; the service is that user's, and is gone afterwards."""
    done = sandbox.run(
        f"{DURE} node install --user {USER} --quota 20 --interface eth0 "
        f"&& cat {UNIT} && systemd-analyze verify {UNIT} "
        f"&& {DURE} node uninstall --user {USER} && ls {UNIT}"
    )
    assert "No such file" in done.stderr, done.stderr  # of ls
    assert sandbox.told.read_text().splitlines() == [
        "daemon-reload",
        "enable --now dure-node.service",
        "restart dure-node.service",
        "disable --now dure-node.service",
        "daemon-reload",
    ]
    assert f"User={USER}\n" in done.stdout
    assert f"Environment=DURE_NODE_DIR={sandbox.node}\n" in done.stdout
    assert f"ExecStart={DURE} node run --quota 20 --interface eth0\n" in done.stdout
    assert "dure-node.service:" not in done.stderr  # systemd-analyze's complaints
    assert "journalctl -u dure-node" in done.stderr


def test_it_starts_no_more_once_the_machine_has_left_its_cluster(tmp_path: Path) -> None:
    """systemd itself says so, of a directory with signs too."""
    tmp_path.chmod(0o755)
    sandbox = Sandbox(tmp_path, 'my "own" 50 % node')
    may_start = f'systemd-analyze condition "$(grep ^Condition {UNIT})"'
    done = sandbox.run(
        f"{DURE} node install --user {USER} && {may_start} && {DURE} node leave && ! {may_start}"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_names_with_blanks_and_signs_stay_whole(tmp_path: Path) -> None:
    """systemd reads back the same words: it splits at blanks, and % and $ mean something to it."""
    tmp_path.chmod(0o755)
    sandbox = Sandbox(tmp_path, 'my "own" 50 % node')
    environment = tmp_path / "it's 1 $ env"
    environment.symlink_to(sys.prefix)
    done = sandbox.run(
        f"{shlex.quote(f'{environment}/bin/python')} -m dure.cli.main node install --user {USER} "
        f"--interface 'eth 0 $' && cat {UNIT} && systemd-analyze verify {UNIT}"
    )
    assert done.returncode == 0, done.stderr
    assert "dure-node.service:" not in done.stderr
    escaped = str(sandbox.node).replace('"', '\\"').replace("%", "%%")
    assert f'Environment="DURE_NODE_DIR={escaped}"\n' in done.stdout
    assert f'ReadWritePaths="{escaped}" /tmp /dev/shm\n' in done.stdout
    shell = '/bin/sh -c "exec \\"$$0\\" \\"$$@\\""'
    python = f"{environment}/bin/python".replace("$", "$$")
    assert (
        f'ExecStart={shell} "{python}" -m dure.cli.main node run --interface "eth 0 $$"\n'
        in done.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("install", "name the user it runs as with --user"),
        ("install --user root", "name the user it runs as with --user"),
        ("install --user nobody-at-all", "there is no user nobody-at-all"),
        ("install --user daemon", "is not daemon's"),
        ("uninstall --user games", "no service is installed"),
    ],
)
def test_what_cannot_be_is_told(sandbox: Sandbox, arguments: str, words: str) -> None:
    done = sandbox.run(f"{DURE} node {arguments}")
    assert done.returncode != 0
    assert words in done.stderr
    assert not sandbox.told.exists()


def test_who_called_sudo_is_whose_service_it_becomes(sandbox: Sandbox) -> None:
    done = sandbox.run(f"{DURE} node install && cat {UNIT}", SUDO_USER=USER)
    assert f"User={USER}\n" in done.stdout, done.stderr


def test_what_systemd_refuses_is_told(sandbox: Sandbox) -> None:
    done = sandbox.run(f"{DURE} node install --user {USER}", SYSTEMCTL_SAYS="1")
    assert done.returncode == 1
    assert "`systemctl daemon-reload` failed" in done.stderr


def test_a_machine_that_has_not_joined_gets_no_service(sandbox: Sandbox) -> None:
    (sandbox.node / "node.json").unlink()
    done = sandbox.run(f"{DURE} node install --user {USER}")
    assert done.returncode == 1
    assert "has not joined a cluster" in done.stderr
