"""`dure serve install` and `uninstall`. There is no systemd in a test: what it would be told is written.

The units' directory is hidden by an empty one in a mount namespace, so nothing of this machine changes.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.support.needs_root import needs_root
from tests.support.systemd_sandbox import SystemdSandbox

pytestmark = needs_root

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
DURE = f"{sys.executable} -m dure.cli.main"
UNIT = "/etc/systemd/system/dure-serve.service"
OWN_UNIT = ".config/systemd/user/dure-serve.service"


class Sandbox(SystemdSandbox):
    """A machine with the users pi and ann, whose systemctl writes down what it is told.

    pi may read what root may, so that it can run the Python of these tests.
    """

    def __init__(self, directory: Path) -> None:
        self.home, self.folder = directory / "home", directory / 'my "50 %" models'
        for made in (self.home, self.folder):
            made.mkdir()
        (self.folder / "model $x.gguf").symlink_to(DEMO)
        users = directory / "passwd"
        users.write_text(
            Path("/etc/passwd").read_text()
            + f"pi:x:0:0::{self.home}:/bin/sh\nann:x:54321:54321::{self.home}:/bin/sh\n"
        )
        super().__init__(
            directory, [f"mount --bind {users} /etc/passwd"], ("DURE_", "XDG_", "SUDO_USER")
        )

    def run(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script in `folder`, as root."""
        return self.run_in(self.folder, script, {"HOME": str(self.home), **environment})


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def test_it_is_installed_started_and_removed(sandbox: Sandbox) -> None:
    """systemd finds nothing wrong in the unit, reads names with blanks and signs as they were typed, and
    the user learns how to see the log and how to stop it.
    """
    done = sandbox.run(
        f"{DURE} serve install 'model $x.gguf' --user pi -c 512 --alias 'a \"50 %\" $name' --no-slots "
        f"&& cat {UNIT} && systemd-analyze verify {UNIT} "
        f"&& {DURE} serve uninstall --user pi && ls {UNIT}",
        DURE_CACHE="/srv/50 %",
    )
    assert "No such file" in done.stderr, done.stderr  # of ls
    assert sandbox.told.read_text().splitlines() == [
        "daemon-reload",
        "enable --now dure-serve.service",
        "restart dure-serve.service",
        "disable --now dure-serve.service",
        "daemon-reload",
    ]
    words = r'"model $$x.gguf" -c 512 --alias "a \"50 %%\" $$name" --no-slots'
    assert f"ExecStart={DURE} serve {words}\n" in done.stdout
    assert f"WorkingDirectory={str(sandbox.folder).replace('%', '%%')}\n" in done.stdout
    assert 'Environment="DURE_CACHE=/srv/50 %%"\n' in done.stdout
    assert "User=pi\n" in done.stdout
    assert "WantedBy=multi-user.target\n" in done.stdout
    assert "dure-serve.service:" not in done.stderr  # systemd-analyze's complaints
    assert "journalctl -u dure-serve -f" in done.stderr
    assert "sudo systemctl stop dure-serve" in done.stderr


def test_without_root_it_is_a_service_of_the_users_own(sandbox: Sandbox) -> None:
    """The unit lies below the user's home, lingers, and takes the user's own places along."""
    as_ann = "unshare --user --map-user=54321 --map-group=54321"
    done = sandbox.run(f"{as_ann} {DURE} serve install *.gguf", XDG_DATA_HOME="/data")
    unit = (sandbox.home / OWN_UNIT).read_text()
    assert sandbox.told.read_text().splitlines() == [
        "--user daemon-reload",
        "--user enable --now dure-serve.service",
        "--user restart dure-serve.service",
        "enable-linger ann",
    ], done.stderr
    assert "User=" not in unit
    assert "Environment=XDG_DATA_HOME=/data\n" in unit
    assert "WantedBy=default.target\n" in unit
    assert "journalctl --user-unit dure-serve -f" in done.stderr


def test_a_dry_run_prints_the_unit_alone(sandbox: Sandbox) -> None:
    """Nothing is written, and systemd is told nothing."""
    done = sandbox.run(f"{DURE} serve install *.gguf --user pi --dry-run; ls {UNIT}")
    assert done.stdout.startswith("[Unit]\n"), done.stderr
    assert done.stdout.endswith("WantedBy=multi-user.target\n")
    assert "No such file" in done.stderr  # of ls
    assert not sandbox.told.exists()


def test_a_dry_run_of_root_prints_the_unit_too(sandbox: Sandbox) -> None:
    """It needs no user, as it changes nothing; it says that an install does."""
    done = sandbox.run(f"{DURE} serve install *.gguf --dry-run; ls {UNIT}")
    assert "User=root\n" in done.stdout, done.stderr
    assert "--user" in done.stderr
    assert "No such file" in done.stderr  # of ls


def test_a_python_whose_path_has_blanks_and_signs_is_found(sandbox: Sandbox) -> None:
    """systemd finds the program: in its path $ means nothing, and % is doubled."""
    python = sandbox.home / "a $50 % venv" / "bin" / "python"
    venv.create(python.parents[1], symlinks=True)
    linked = next(python.parents[1].glob("lib/*/site-packages")) / "dure.pth"
    linked.write_text(sysconfig.get_path("purelib"))
    done = sandbox.run(
        f"'{python}' -m dure.cli.main serve install *.gguf --user pi "
        f"&& grep Exec {UNIT} && systemd-analyze verify {UNIT}"
    )
    assert done.returncode == 0, done.stderr
    assert '/a $50 %% venv/bin/python"' in done.stdout
    assert "dure-serve.service:" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("*.gguf --prt 80 --user pi", "no such option: --prt"),
        ("*.gguf", "name the user it runs as with --user"),
        ("qwen3:4b --user pi", "pi cannot serve qwen3:4b: qwen3:4b is not on this machine"),
        ("*.gguf --user games", "games may not use"),
        ("*.gguf --user pi --host 0.0.0.0", "no API key is set"),
        ("--user pi", "missing argument 'MODEL'"),
    ],
)
def test_what_could_not_run_is_not_installed(sandbox: Sandbox, arguments: str, words: str) -> None:
    """What `dure serve` would refuse at every start is told now."""
    done = sandbox.run(f"{DURE} serve install {arguments}; ls {UNIT}")
    assert words in done.stderr
    assert "No such file" in done.stderr  # of ls
    assert not sandbox.told.exists()


def test_keys_do_not_go_into_a_unit_that_everybody_may_read(sandbox: Sandbox) -> None:
    done = sandbox.run(f"{DURE} serve install *.gguf --user pi", DURE_API_KEYS="me:secret")
    assert done.returncode == 2
    assert "--api-key-file" in done.stderr


@pytest.mark.parametrize("option", ["--api-key secret", "--api-key=secret"])
def test_a_key_of_the_command_line_does_not_go_into_a_unit(sandbox: Sandbox, option: str) -> None:
    done = sandbox.run(f"{DURE} serve install *.gguf --user pi {option}; ls {UNIT}")
    assert "--api-key would be in the unit" in done.stderr
    assert "No such file" in done.stderr  # of ls


def test_a_machine_without_systemd_is_told_so_and_keeps_no_unit(sandbox: Sandbox) -> None:
    alone = f"PATH={sandbox.home} {DURE} serve"
    done = sandbox.run(
        f"{alone} install *.gguf --user pi; ls {UNIT}; touch {UNIT}; {alone} uninstall"
    )
    assert done.stderr.count("this machine has no systemd") == 1
    assert "No such file" in done.stderr  # of ls


def test_options_of_serve_come_from_its_section_of_the_configuration(sandbox: Sandbox) -> None:
    """The file is checked as at the service's start, and stays the place of what was not typed."""
    file = sandbox.home / "config.toml"
    file.write_text('[serve]\nhost = "0.0.0.0"\n')
    install = f"{DURE} serve install *.gguf --user pi --dry-run"
    assert "no API key is set" in sandbox.run(install, DURE_CONFIG=str(file)).stderr
    file.write_text("[serve]\ndeadline = 5\n")
    done = sandbox.run(install, DURE_CONFIG=str(file))
    assert f"Environment=DURE_CONFIG={file}\n" in done.stdout, done.stderr
    assert "TimeoutStopSec=20\n" in done.stdout
