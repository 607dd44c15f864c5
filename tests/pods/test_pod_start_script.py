"""The guard in a pod: the script that a pod starts with really runs, and ends its pod alone.

The emulator runs it as a process; nobody is at home.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dure.pods.emulator.faults import Fault
from dure.pods.emulator.machine import LocalMachine
from dure.pods.launch import Order
from dure.pods.ledger import Entry
from dure.pods.report import PodReport, report_of
from tests.support.pod_accounts import Renting, renting, wait_until

TOOLS = (
    "sh",
    "date",
    "cat",
    "sed",
    "awk",
    "grep",
    "wc",
    "tail",
    "sort",
    "tr",
    "mkdir",
    "chmod",
    "mv",
)
SCRIPT = Path(__file__).parents[2] / "src" / "dure" / "pods" / "start.sh"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Renting]:
    with renting(tmp_path, lambda: LocalMachine(tmp_path / "machine")) as home:
        yield home


def order(home: Renting, run: str = "", **limits: int) -> Order:
    """A pod whose limits are seconds."""
    wanted = home.order(idle_s=limits.get("idle_s", 0))
    return replace(
        wanted,
        template=replace(wanted.template, run=run),
        bill=replace(wanted.bill, max_seconds=limits.get("max_seconds", 3600)),
        heartbeat_s=limits.get("heartbeat_s", 0),
    )


def report(folder: Path) -> PodReport | None:
    path = folder / "machine" / "disk" / "state" / "report"
    return report_of(path.read_text()) if path.exists() else None


def has_ended(home: Renting, entry: Entry) -> bool:
    return home.pod(entry).status == "TERMINATED"


def test_it_ends_its_pod_at_the_deadline(home: Renting) -> None:
    """With home asleep, the pod terminates itself, and the bill ends."""
    entry = home.up(order(home, max_seconds=2))
    wait_until(lambda: has_ended(home, entry))
    assert home.account.billing() == []


def test_it_asks_again_until_it_is_heard(home: Renting) -> None:
    """An end that was accepted and did not happen is asked for again."""
    home.account.faults.set({Fault.DEAF_TERMINATE: 2})
    entry = home.up(order(home, max_seconds=1))
    wait_until(lambda: has_ended(home, entry))
    assert home.server.requests.count(f"DELETE /v2/pods/{entry.pod_id}") == 3


def test_a_pod_that_may_not_be_terminated_is_stopped(home: Renting, tmp_path: Path) -> None:
    """After six refusals: its GPU is not paid for any more, and the guard at home sees to the rest."""
    entry = home.up(order(home, max_seconds=3))
    wait_until(lambda: bool((told := report(tmp_path)) and told.armed_at))
    home.account.faults.set({Fault.FORBIDDEN: 6})
    wait_until(lambda: home.account.billing() == [])
    assert home.pod(entry).status == "EXITED"


def test_a_network_that_was_cut_at_the_deadline_only_delays_it(home: Renting) -> None:
    """It asks until somebody answers, and does not stop a pod that it can terminate."""
    entry = home.up(order(home, max_seconds=2))
    home.account.faults.set({Fault.DOWN: 4})
    wait_until(lambda: has_ended(home, entry))
    assert f"DELETE /v2/pods/{entry.pod_id}" in home.server.requests
    assert not home.account.faults.happens(Fault.DOWN)


def test_it_ends_an_idle_pod(home: Renting) -> None:
    """No GPU, no bytes and no line of a log for that long."""
    entry = home.up(order(home, idle_s=2))
    wait_until(lambda: has_ended(home, entry))


def test_a_busy_gpu_and_a_log_that_grows_are_no_idleness(home: Renting, tmp_path: Path) -> None:
    """A server writes a line for each request, however short: the last one counts."""
    home.up(order(home, run="while sleep 0.3; do echo request; done", idle_s=3))
    wait_until(lambda: bool((told := report(tmp_path)) and told.now - told.dies_at > -3597))
    told = report(tmp_path)
    assert told is not None
    assert told.active_at == told.now
    assert len(home.account.billing()) == 1


def test_looking_whether_all_is_well_is_no_work(home: Renting) -> None:
    """A router asks a server's health every few seconds: that keeps no pod alive."""
    run = "while sleep 0.3; do echo 'done request: GET /health 127.0.0.1 200'; done"
    entry = home.up(order(home, run=run, idle_s=2))
    wait_until(lambda: has_ended(home, entry))


def test_it_ends_when_nobody_at_home_is_heard(home: Renting) -> None:
    """The dead man's switch, if it is asked for."""
    entry = home.up(order(home, heartbeat_s=2))
    wait_until(lambda: has_ended(home, entry))


def test_it_says_that_it_is_armed_once_the_provider_took_its_key(
    home: Renting, tmp_path: Path
) -> None:
    """Not before: a key that is refused arms nothing."""
    home.up(order(home))
    wait_until(lambda: bool((told := report(tmp_path)) and told.armed_at))
    told = report(tmp_path)
    assert told is not None
    assert told.answer == "200"


def test_a_refused_key_arms_nothing(tmp_path: Path) -> None:
    """It tells the answer that it got."""
    with renting(tmp_path) as home, script(tmp_path, home, key="wrong-key-of-a-pod"):
        wait_until(lambda: bool((told := told_by(tmp_path)) and told.answer == "401"))
        told = told_by(tmp_path)
        assert told is not None
        assert told.armed_at == 0


def test_no_program_that_it_starts_has_the_key(home: Renting, tmp_path: Path) -> None:
    """Neither in its environment nor in its arguments, and no log either."""
    seen, curl = tmp_path / "seen", tmp_path / "machine" / "bin" / "curl"
    curl.parent.mkdir(parents=True)
    real = shutil.which("curl")
    curl.write_text(f'#!/bin/sh\n{{ echo "$@"; env; }} >>{seen}\nexec {real} "$@"\n')
    curl.chmod(0o755)
    entry = home.up(order(home, run=f"env >>{seen}; sleep 60", max_seconds=1))
    wait_until(lambda: has_ended(home, entry))
    told, machine = seen.read_text(), home.pod(entry).machine
    assert "-X DELETE" in told
    assert "DURE_RUN=" in told
    assert machine is not None
    assert home.pod(entry).key not in told + "\n".join(machine.log())


def test_a_program_that_needs_a_token_waits_for_it(home: Renting, tmp_path: Path) -> None:
    """It would fail at its download; the guard runs meanwhile, and no other program has the token."""
    wanted = order(home, run="echo begun with $HF_TOKEN; sleep 60")
    entry = home.up(replace(wanted, template=replace(wanted.template, awaits_token=True)))
    wait_until(lambda: bool((told := report(tmp_path)) and told.armed_at))
    machine = home.pod(entry).machine
    assert machine is not None
    assert "begun" not in "".join(machine.log())
    (tmp_path / "machine" / "disk" / "state" / "hf-token").write_text("hf_secret")
    wait_until(lambda: "begun with hf_secret" in machine.log())


# ---------------------------------------------------------------- the script alone


def told_by(folder: Path) -> PodReport | None:
    path = folder / "state" / "report"
    return report_of(path.read_text()) if path.exists() else None


@contextmanager
def script(
    folder: Path, home: Renting, key: str = "", path: str = "", max_s: int | str = 3600
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the script for a pod of the account, with its state in a folder."""
    body = {"name": "alone", "image": "x", "gpu": {"id": "NVIDIA L40S"}, "disk": 20}
    pod = home.account.pods[home.account.create(body)["id"]]
    process = subprocess.Popen(
        [shutil.which("sh") or "sh", str(SCRIPT)],
        env={
            "PATH": path or os.environ["PATH"],
            "DURE_POD_STATE": str(folder / "state"),
            "DURE_STEP_S": "1",
            "DURE_MAX_S": str(max_s),
            "DURE_POD_API": home.server.url,
            "RUNPOD_POD_ID": pod.id,
            "RUNPOD_API_KEY": key or pod.key,
        },
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def test_a_pod_that_was_resumed_does_not_die_at_once(tmp_path: Path) -> None:
    """A deadline that has passed is of an earlier run, though its disk was kept."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "deadline").write_text(f"{int(time.time()) - 60}\n")
    with renting(tmp_path) as home, script(tmp_path, home):
        wait_until(lambda: bool((told := told_by(tmp_path)) and told.armed_at))
        told = told_by(tmp_path)
        assert told is not None
        assert told.dies_at > told.now + 3500
        assert len(home.account.billing()) == 1


def test_a_container_that_crashed_keeps_its_deadline(tmp_path: Path) -> None:
    """Being started anew gives it no more time."""
    before = int(time.time()) + 100
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "deadline").write_text(f"{before}\n")
    with renting(tmp_path) as home, script(tmp_path, home):
        wait_until(lambda: told_by(tmp_path) is not None)
        told = told_by(tmp_path)
        assert told is not None
        assert told.dies_at == before


def test_a_full_disk_in_the_pod_does_not_keep_it(tmp_path: Path) -> None:
    """Nothing that it writes is needed to end it: here its folder cannot even be made."""
    (tmp_path / "state").write_text("a file where the folder should be")
    with renting(tmp_path) as home, script(tmp_path, home, max_s=2):
        wait_until(lambda: home.account.billing() == [])


def test_limits_that_are_no_numbers_are_an_hour(tmp_path: Path) -> None:
    """Somebody may change a pod's variables: it has an end all the same."""
    with renting(tmp_path) as home, script(tmp_path, home, max_s="for ever"):
        wait_until(lambda: told_by(tmp_path) is not None)
        told = told_by(tmp_path)
        assert told is not None
        assert told.dies_at - told.now == 3600


def test_an_image_without_curl_is_no_excuse(tmp_path: Path) -> None:
    """Python does it then."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in (*TOOLS, "sleep"):
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    (tools / "python3").symlink_to(Path(sys.executable).resolve())
    with renting(tmp_path) as home, script(tmp_path, home, path=str(tools), max_s=2):
        wait_until(lambda: home.account.billing() == [])
