"""`dure pod` as a person uses it, against the emulator: real processes, a real sshd, no money."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from dure.pods.emulator.faults import ALWAYS
from tests.support.dure_process import IN_FRONT
from tests.support.needs_root import needs_root
from tests.support.pod_person import KEY, UP, Person, a_person
from tests.support.systemd_sandbox import SystemdSandbox


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    with a_person(tmp_path) as person:
        yield person


@pytest.fixture(scope="module")
def renter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """Somebody who has a pod already; what ssh and ssh-keygen were given is written down in `seen`."""
    folder = tmp_path_factory.mktemp("renter")
    with a_person(folder) as person:
        person.watch_programs()
        person.dure(*UP)
        yield person


def test_the_whole_path(person: Person, tmp_path: Path) -> None:
    """Choose a GPU, see the bill, rent, log in, run, stop, start at another port, end."""
    cheap = person.json("gpus", "--max-price", "0.7")
    assert [offer["name"] for offer in cheap] == ["RTX A5000", "RTX 4090"]
    bill = json.loads(person.dure(*UP, "--volume", "100", "--dry-run"))["bill"]
    assert bill["stopped_for_a_month"] == 20.0
    assert person.server.account.pods == {}

    person.dure("guard", "--once", "--again")
    person.faults(late_ssh=2)
    made = json.loads(person.dure(*UP, "--volume", "100", "--max-spend", "2", "--idle", "20m"))
    assert made["status"] == "RUNNING"
    assert made["guard_in_pod"]
    assert made["at_most"] <= 2
    assert (person.home / ".ssh" / "config").read_text().endswith("Host elsewhere\n    Port 2222\n")

    assert "RTX 4090" in person.dure("ssh", "w", "--", "nvidia-smi")
    assert "RTX 4090" in person.ssh("dure-w", "nvidia-smi")
    listed = person.dure("ls")
    assert "dies at" in listed
    assert "$2.00 at most" in listed

    tunnel = person.start("tunnel", "w")
    assert tunnel.stdout is not None
    url = tunnel.stdout.readline().strip().removesuffix("/v1")
    transport = httpx2.HTTPTransport(retries=8)
    with httpx2.Client(transport=transport) as client:
        assert client.get(f"{url}/health").json() == {"status": "ok"}
    tunnel.terminate()
    tunnel.wait()
    tunnel.stdout.close()

    (tmp_path / "data").write_text("rows")
    volume = tmp_path / "pod-0" / "workspace"
    person.dure("sync", str(tmp_path / "data"), "w:")
    assert (volume / "data").read_text() == "rows"
    person.dure("sync", "w:data", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "rows"
    assert "a stop deletes it" not in "".join(person.said)
    person.dure("sync", str(tmp_path / "data"), f"w:{tmp_path}/elsewhere/")
    assert "/elsewhere/ is outside /workspace: a stop deletes it" in person.said[-1]

    port = person.pod.port
    person.dure("stop", "w")
    assert person.server.account.billing() == []
    assert "ends at $2.00" in person.dure("ls")
    person.faults(stale_port=2)
    started = json.loads(person.dure("start", "w", "--yes", "--json"))
    assert person.pod.port != port
    assert started["guard_in_pod"]
    assert "RTX 4090" in person.ssh("dure-w", "nvidia-smi")

    assert "is gone" not in person.dure("rm", "w", "--yes")
    assert "is gone; it cost $0.01" in person.said[-1]
    assert person.server.account.billing() == []
    assert [pod["state"] for pod in person.json("ls", "--all")["pods"]] == ["gone"]
    _no_secret(person, tmp_path)


def _no_secret(person: Person, folder: Path) -> None:
    """The account's key is in no file, no URL, and nothing that was said."""
    texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert any(b"dure-w" in text for text in texts)
    assert not any(KEY.encode() in text for text in texts)
    assert KEY not in "\n".join([*person.said, *person.server.requests])


def test_a_port_that_changed_is_mended(renter: Person) -> None:
    """A pod that was restarted elsewhere is reached all the same, by every program."""
    renter.server.account.act(renter.pod.id, "restart")
    assert "emulated" in renter.dure("ssh", "w", "--", "nvidia-smi")
    assert "emulated" in renter.ssh("dure-w", "nvidia-smi")


def test_the_bill_is_shown_before_the_question(person: Person) -> None:
    """Per hour, forgotten overnight, stopped for a month, terminated, and at most."""
    said = person.dure(*UP[:-2], "--volume", "100", status=1)
    bill, _, question = said.partition("rent RTX 4090 as w?")
    for line in (
        "running             $0.71 an hour ($0.69 GPU, $0.02 disks)",
        "forgotten overnight $7.07 in 10 hours",
        "stopped for a month $20.00 for its volume",
        "terminated          nothing is left",
        "at most             $5.66: guards end it after 8 h",
    ):
        assert line in bill
    assert "is made" not in question


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--cloud", "moon"),
        ("--volume", "5"),
        ("--max-hours", "0"),
        ("--max-spend", "0"),
        ("--idle", "soon"),
        ("--name", "A b"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    person: Person, option: str, value: str
) -> None:
    """The option and its value are named."""
    assert f"{option} {value}" in person.dure(*UP, option, value, status=2)
    assert "POST /v2/pods" not in person.server.requests


def test_a_key_of_ones_own_is_used(person: Person) -> None:
    """dure makes none then, and every program uses it."""
    own = person.home / "own"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", own], check=True)
    person.dure(*UP, "--ssh-key", str(own))
    assert person.pod.env["PUBLIC_KEY"] == own.with_suffix(".pub").read_text().strip()
    assert not (person.home / ".ssh" / "dure" / "id_ed25519").exists()
    assert "RTX 4090" in person.ssh("dure-w", "nvidia-smi")
    missing = person.dure(*UP, "--name", "x", "--ssh-key", "/none", status=2)
    assert "there is no key /none" in missing


def test_a_locked_pod_is_told_by_every_command(person: Person) -> None:
    """Neither a stop nor an end is done, or shown as done; what it costs is shown all the same."""
    person.dure(*UP)
    person.pod.locked = True
    assert "it is locked" in person.dure("stop", "w", status=1)
    assert "it is locked" in person.dure("rm", "w", "--yes", status=1)
    shown = person.json("show", "w")
    assert (shown["locked"], shown["actions"], shown["status"]) == (True, [], "RUNNING")
    person.server.account.clock.forward(3600)
    person.dure("ls")
    cost = person.json("cost")["pods"][0]
    assert min(cost["spent"], cost["billed"]) >= 0.69
    assert "counted" in person.dure("cost")


def test_nothing_is_rented_without_an_answer(person: Person) -> None:
    """Neither if the question is not answered, nor for a program that was not told to agree."""
    asked = UP[:-2]
    person.dure(*asked, status=1)
    assert "--yes" in person.dure(*asked, "--json", status=2)
    assert "POST /v2/pods" not in person.server.requests


def test_a_pod_that_nobody_guards_is_ended(person: Person) -> None:
    """Its own guard cannot be checked, as ssh never comes; no guard at home runs: it is not left."""
    person.faults(late_ssh=ALWAYS)
    assert "w was terminated" in person.dure(*UP, "--wait", "2s", status=1)
    assert person.server.account.billing() == []


def test_a_wait_that_is_interrupted_leaves_no_pod_without_a_guard(person: Person) -> None:
    """Ctrl-C while its guard is not checked yet ends the pod."""
    person.faults(late_ssh=ALWAYS)
    waiting = subprocess.Popen(
        [sys.executable, "-c", IN_FRONT, *person.command(*UP)],
        env=person.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert waiting.stderr is not None
    assert any(b"is made" in line for line in waiting.stderr)
    waiting.send_signal(signal.SIGINT)
    waiting.communicate(timeout=60)
    assert person.server.account.pods
    assert person.server.account.billing() == []


def test_a_pod_that_the_guard_at_home_sees_is_kept(person: Person) -> None:
    """Then it is an error to be told only."""
    person.dure("guard", "--once", "--again")
    person.faults(late_ssh=ALWAYS)
    assert "lets nobody in by ssh" in person.dure(*UP, "--wait", "2s", status=1)
    assert len(person.server.account.billing()) == 1
    assert "home" in person.dure("ls")


def test_a_round_by_hand_arms_no_guard(person: Person) -> None:
    """Only one that is followed by others counts."""
    person.dure("guard", "--once")
    assert "no guard at home has looked" in person.dure("doctor", status=1)
    person.dure("guard", "--once", "--again")
    assert "no guard at home has looked" not in person.dure("doctor", status=1)


def test_the_doctor_names_what_is_missing(person: Person) -> None:
    """Every check is made, whatever fails."""
    checks = json.loads(_out_of(person, "doctor", "--json"))
    bad = {check["check"] for check in checks if check["problem"]}
    assert "~/.ssh/config includes the pods' entries" in bad
    assert "a guard at home makes its rounds" in bad
    assert "the provider accepts it, and its clock agrees" not in bad


def _out_of(person: Person, *words: str) -> str:
    done = subprocess.run(
        person.command(*words), env=person.environment, capture_output=True, text=True, check=False
    )
    return done.stdout


def test_a_guard_round_ends_an_overdue_pod(person: Person) -> None:
    """The provider's clock counts, not this machine's."""
    person.dure(*UP, "--max-hours", "2")
    person.server.account.clock.forward(2 * 3600)
    done = person.json("guard", "--once")
    assert done["pods"][0]["act"] == "terminate"
    assert person.server.account.billing() == []


def test_what_a_pod_wrote_is_printed(renter: Person) -> None:
    """Line by line."""
    (renter.home.parent / "pod-0" / "log").write_text("loading\nready\n")
    assert renter.dure("logs", "w").splitlines()[:2] == ["loading", "ready"]


def test_two_pods_of_one_name_are_refused(renter: Person) -> None:
    """The second would be forgotten."""
    assert "a pod named w lives already" in renter.dure(*UP, status=2)
    assert len(renter.server.account.billing()) == 1


def test_without_a_key_it_says_where_one_is_put(person: Person) -> None:
    """The cure names every place."""
    said = person.dure("ls", status=2, RUNPOD_API_KEY="")
    assert "RUNPOD_API_KEY" in said
    assert "DURE_POD_KEY_FILE" in said


def test_a_wrong_key_is_not_repeated_in_the_error(person: Person) -> None:
    """Whoever reads the error learns nothing."""
    said = person.dure("ls", status=1, RUNPOD_API_KEY="another-secret")
    assert "the key is not accepted" in said
    assert "another-secret" not in said


@needs_root
def test_the_guard_is_installed_and_is_armed_only_after_its_first_round(
    person: Person, tmp_path: Path
) -> None:
    """A timer that makes no round is an error; the unit has no key."""
    sandbox = SystemdSandbox(tmp_path)
    install = f"{sys.executable} -m dure.cli.main pod guard --install --user nobody"
    key = tmp_path / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    kept = {k: v for k, v in person.environment.items() if k != "PATH"}
    given = {
        **kept,
        "DURE_PODS": str(tmp_path / "pods"),
        "DURE_POD_KEY_FILE": str(key),
    }
    refused = sandbox.run_in(tmp_path, install, given)
    assert "where a service does not find it" in refused.stderr
    del given["RUNPOD_API_KEY"]
    idle = sandbox.run_in(tmp_path, f"unset RUNPOD_API_KEY; {install}", given)
    assert "the guard is installed and not armed: it made no round" in idle.stderr
    systemctl = sandbox.programs / "systemctl"
    systemctl.write_text(
        "#!/bin/sh\n"
        '[ "$1" = start ] || exit 0\n'
        "unit=/etc/systemd/system/dure-pod-guard.service\n"
        'exec env $(sed -n "s/^Environment=//p" $unit) $(sed -n "s/^ExecStart=//p" $unit)\n'
    )
    show = "cat /etc/systemd/system/dure-pod-guard.*"
    armed = sandbox.run_in(tmp_path, f"{install} && {show}", given)
    assert armed.returncode == 0, armed.stderr
    assert "the first one was checked" in armed.stderr
    assert "OnUnitActiveSec=60" in armed.stdout
    assert KEY not in armed.stdout


def test_what_is_promised_is_what_an_armed_guard_keeps(renter: Person) -> None:
    """The pod's own guard knows its deadline only; the limit in money is kept at home."""
    alone = next(iter(renter.json("ls")["pods"]))
    assert not alone["guard_at_home"]
    assert "dies at" in renter.dure("ls")
    ledger = sqlite3.connect(renter.home / ".local" / "state" / "dure" / "pods" / "ledger.sqlite3")
    body = json.loads(ledger.execute("SELECT entry FROM pods").fetchone()[0])
    assert alone["dies_at"] == datetime.fromtimestamp(body["dies_at"], UTC).isoformat(
        timespec="seconds"
    )
    ledger.execute("UPDATE pods SET entry=?", (json.dumps({**body, "armed_at": 0}),))
    ledger.commit()
    ledger.close()
    assert "NO GUARD IS ARMED" in renter.dure("ls")
    assert next(iter(renter.json("ls")["pods"]))["dies_at"] is None


def test_every_command_tells_programs_what_it_did(renter: Person, tmp_path: Path) -> None:
    """`ssh` prints its command, which then works; `sync` what it copied; `export` its configuration."""
    found = json.loads(renter.dure("ssh", "w", "--json", "--", "nvidia-smi"))
    assert found["port"] == renter.pod.port
    done = subprocess.run(found["command"], capture_output=True, text=True, check=True, timeout=60)
    assert "RTX 4090" in done.stdout
    (tmp_path / "data").write_text("rows")
    copied = renter.json("sync", str(tmp_path / "data"), "w:")
    assert copied["status"] == 0
    assert any("total size" in line for line in copied["stats"])
    assert renter.json("export", "w", "--dstack")["port"] == 8080
    tunnel = renter.start("tunnel", "w", "--json")
    assert json.loads(_first_line(tunnel))["url"].endswith("/v1")
    tunnel.terminate()
    tunnel.communicate()


def test_the_emulator_prints_what_the_commands_need(renter: Person) -> None:
    """As a line for a shell, or as JSON."""
    emulator = renter.start("emulator", "--json")
    found = json.loads(_first_line(emulator))
    emulator.terminate()
    emulator.communicate()
    assert found["RUNPOD_API_BASE_URL"].startswith("http://127.0.0.1:")
    assert found["RUNPOD_API_KEY"]


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None, "it is a pipe"
    return process.stdout.readline()
