"""`dure pull` against a hub on this machine: it comes whole, goes on after every fault, or says why not.

The hub speaks real HTTP and breaks it on demand; `dure` runs as a process, as people run it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dure.model.store import short_names
from tests.support.dure_process import Dure, as_json, error_line
from tests.support.hub_server import Fault, HubServer, Repo
from tests.support.random_models import SHAPES, write_random_model, write_split

MODEL = (Path(__file__).parents[2] / "models" / "dure-demo.gguf").read_bytes()
SHA256 = hashlib.sha256(MODEL).hexdigest()
NAME = "hf:village/Goat-GGUF:Q4_0"
FILE = "village/Goat-GGUF/Goat-Q4_0.gguf"
FAILED, SENSELESS = 1, 2
MIDDLE = 3_000_000
GOOD = {"HF_TOKEN": "hf_good"}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A hub with one repository of two kinds of one model."""
    with HubServer() as server:
        server.repos["village/Goat-GGUF"] = Repo(
            {"Goat-Q4_0.gguf": MODEL, "Goat-Q8_0.gguf": MODEL, "README.md": b"A goat."}
        )
        yield server


@pytest.fixture
def dure(tmp_path: Path, hub: HubServer) -> Iterator[Dure]:
    """The program, with a models directory of its own, and with our hub for the real one."""
    program = Dure(tmp_path / "cache")
    unwanted = [name for name in program.environment if name.startswith(("HF_", "HUGGING"))]
    for name in unwanted:
        del program.environment[name]
    program.environment |= {
        "DURE_MODELS": str(tmp_path / "models"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": hub.url,
        "NO_PROXY": "127.0.0.1",
    }
    yield program
    hub.release.set()
    assert program.left_behind() == []


def pulled(tmp_path: Path) -> bytes:
    return (tmp_path / "models" / FILE).read_bytes()


def check_refusal(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One last line on stderr with all words, and the code; notes may come before it."""
    line = error_line(done.stderr.splitlines()[-1])
    assert done.stdout == ""
    assert [word for word in words if word not in line] == [], line
    assert done.returncode == code


# ---------------------------------------------------------------- what comes


def test_a_model_comes_whole_with_a_record_of_where_from(
    dure: Dure, tmp_path: Path, hub: HubServer
) -> None:
    """The file lies at owner/repository/file; the record beside it has commit, checksum and time."""
    facts = as_json(dure("pull", NAME, "--json"))
    assert pulled(tmp_path) == MODEL
    record = json.loads((tmp_path / "models" / f"{FILE}.json").read_text())
    assert facts["name"] == record["name"] == NAME
    assert facts["path"] == str(tmp_path / "models" / FILE)
    assert record["revision"] == hub.repos["village/Goat-GGUF"].commit
    assert facts["sha256"] == [SHA256]
    assert record["facts"]["context_length"] == 2048
    assert list((tmp_path / "models").rglob("*.part")) == []
    assert list((tmp_path / "models").rglob("*.pull.json")) == []


def test_a_second_pull_brings_nothing(dure: Dure, hub: HubServer) -> None:
    """What is here and up to date is not downloaded again."""
    assert dure("pull", NAME).returncode == 0
    n_before = len(hub.downloads())
    done = dure("pull", NAME)
    assert "up to date" in done.stdout
    assert len(hub.downloads()) == n_before


def test_without_a_kind_the_one_that_most_people_want_is_taken_and_told(
    dure: Dure, tmp_path: Path
) -> None:
    """Of Q4_0 and Q8_0, Q4_0; stderr says so."""
    done = dure("pull", "hf:village/Goat-GGUF")
    assert done.returncode == 0
    assert "taking Q4_0" in done.stderr
    assert pulled(tmp_path) == MODEL


def test_a_bar_is_drawn_on_a_terminal_only(dure: Dure) -> None:
    """Through a pipe there are plain lines without control codes."""
    with dure.terminal("pull", NAME) as terminal:
        assert "\x1b[" in terminal.read_all()
    done = dure("pull", "hf:village/Goat-GGUF:Q8_0")
    assert "pulling Goat-Q8_0.gguf (7." in done.stderr
    assert "\x1b" not in done.stderr


def test_the_token_and_the_switch_to_offline_are_those_of_the_hubs_own_tools(
    dure: Dure, tmp_path: Path, hub: HubServer
) -> None:
    """HF_TOKEN opens a gated repository; with HF_HUB_OFFLINE nothing is sent."""
    hub.repos["village/Goat-GGUF"].gated = True
    check_refusal(dure("pull", NAME, HF_HUB_OFFLINE="1"), FAILED, "HF_HUB_OFFLINE")
    assert hub.requests == []
    assert dure("pull", NAME, **GOOD).returncode == 0
    assert pulled(tmp_path) == MODEL


def test_no_connection_at_all_is_told(dure: Dure) -> None:
    """Nobody listens at the endpoint."""
    done = dure("pull", NAME, "--tries", 1, HF_ENDPOINT="http://127.0.0.1:1")
    check_refusal(done, FAILED, NAME, "no connection", "check the network")


# ---------------------------------------------------------------- stopped


def started(dure: Dure, tmp_path: Path, hub: HubServer) -> subprocess.Popen[bytes]:
    """A pull that has MIDDLE bytes and waits for more."""
    hub.faults.append(Fault(after=MIDDLE, hold=True))
    process = dure.start("pull", NAME, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    part = tmp_path / "models" / f"{FILE}.part"
    while not part.exists() or part.stat().st_size < MIDDLE - 65536:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_pull_that_is_stopped_goes_on_where_it_was(
    dure: Dure, tmp_path: Path, hub: HubServer, how: signal.Signals
) -> None:
    """Killed, ended or stopped by Ctrl-C: what had come is not fetched again."""
    process = started(dure, tmp_path, hub)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    if how is signal.SIGINT:
        assert f"`dure pull {NAME}` resumes from here".encode() in said
        assert process.returncode == 130
    hub.release.set()
    assert dure("pull", NAME).returncode == 0
    first = hub.downloads()[-1].headers["range"].removeprefix("bytes=").removesuffix("-")
    assert MIDDLE - 65536 <= int(first) <= MIDDLE
    assert pulled(tmp_path) == MODEL


def test_an_unfinished_pull_is_listed_and_can_be_removed(
    dure: Dure, tmp_path: Path, hub: HubServer
) -> None:
    """`ls` shows it as not finished, `bench` does not take it, `rm` deletes its part."""
    process = started(dure, tmp_path, hub)
    process.kill()
    process.communicate(timeout=60)
    (row,) = as_json(dure("ls", "--json"))
    assert (row["name"], row["unfinished"]) == (NAME, True)
    assert "not finished" in dure("ls").stdout
    check_refusal(dure("bench", NAME), SENSELESS, NAME, "dure pull")
    assert dure("rm", NAME, "--yes").returncode == 0
    assert list((tmp_path / "models").rglob("Goat*")) == []


def test_two_pulls_of_one_model_bring_it_once(dure: Dure, tmp_path: Path, hub: HubServer) -> None:
    """The second waits for the first, and finds it done."""
    first = started(dure, tmp_path, hub)
    second = dure.start("pull", NAME, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert second.stderr
    assert b"another process is pulling" in second.stderr.readline()
    hub.release.set()
    out, _ = second.communicate(timeout=60)
    first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert b"up to date" in out
    assert pulled(tmp_path) == MODEL
    assert len(hub.downloads()) == 2  # the held one, and the rest of it


# ---------------------------------------------------------------- disks


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(
    dure: Dure, tmp_path: Path, hub: HubServer, small_disk: Path
) -> None:
    """Nothing is downloaded, and the line names the directory, what is free and what is needed."""
    done = dure("pull", NAME, DURE_MODELS=str(small_disk / "models"))
    check_refusal(
        done, FAILED, str(small_disk), "MB free, but 7.4 MB are still to come", "DURE_MODELS"
    )
    assert hub.downloads() == []


def test_a_disk_that_fills_up_meanwhile_keeps_what_came(
    dure: Dure, hub: HubServer, small_disk: Path
) -> None:
    """An address that does not tell its size is found out by the disk itself; the part stays."""
    hub.plain["goat.gguf"] = MODEL
    hub.faults.append(Fault(headers={"Content-Length": "", "Connection": "close"}))
    done = dure("pull", f"{hub.url}/plain/goat.gguf", DURE_MODELS=str(small_disk / "models"))
    check_refusal(done, FAILED, "goat.gguf.part", "No space left", "make room")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes, where this machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "dure-test", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_models_directory_that_cannot_be_written_is_told(dure: Dure, tmp_path: Path) -> None:
    """A file where the directory should be."""
    (tmp_path / "file").write_text("in the way")
    done = dure("pull", NAME, DURE_MODELS=str(tmp_path / "file" / "models"))
    check_refusal(done, FAILED, str(tmp_path / "file"), "cannot write", "DURE_MODELS")


# ---------------------------------------------------------------- the hub's cache


def test_a_file_in_the_hubs_cache_is_shared_and_not_downloaded(
    dure: Dure, tmp_path: Path, hub: HubServer
) -> None:
    """The same bytes under two names; deleting ours leaves the cache's."""
    blob = tmp_path / "hf" / "hub" / "models--village--Goat-GGUF" / "blobs" / SHA256
    blob.parent.mkdir(parents=True)
    blob.write_bytes(MODEL)
    done = dure("pull", NAME)
    assert done.returncode == 0, done.stderr
    assert hub.downloads() == []
    assert (tmp_path / "models" / FILE).samefile(blob)
    assert "Hugging Face cache" in dure("rm", NAME, "--yes").stderr
    assert blob.read_bytes() == MODEL


# ---------------------------------------------------------------- without a pull


def test_a_model_is_shown_by_its_header_alone(dure: Dure, tmp_path: Path, hub: HubServer) -> None:
    """As if it were here; a part of the file comes, and nothing is kept."""
    done = dure("show", NAME, "--json")
    shown = as_json(done)
    assert f"`dure pull {NAME}`" in done.stderr
    assert not (tmp_path / "models").exists()
    assert {(one.to, "range" in one.headers) for one in hub.downloads()} == {("cdn", True)}
    as_json(dure("pull", NAME, "--json"))
    here = as_json(dure("show", NAME, "--json"))
    assert shown.pop("files") == ["village/Goat-GGUF/Goat-Q4_0.gguf"]
    assert here.pop("files") == [str(tmp_path / "models" / FILE)]
    assert shown == here


def test_of_a_large_model_little_comes_for_show(dure: Dure, tmp_path: Path, hub: HubServer) -> None:
    """Its header and what was read ahead, in all parts of a split one."""
    whole = tmp_path / "random.gguf"
    write_random_model(whole, SHAPES["qwen3"], "Q4_K")
    parts = write_split(tmp_path / "split", SHAPES["qwen3"], "Q4_K", 3)
    hub.repos["village/Split-GGUF"] = Repo({path.name: path.read_bytes() for path in parts})
    shown = as_json(dure("show", "hf:village/Split-GGUF", "--json"))
    here = as_json(dure("show", whole, "--json"))
    assert (shown["cuts"], shown["parameters"]) == (here["cuts"], here["parameters"])
    assert len(shown["files"]) == 3
    asked = [request.headers["range"].removeprefix("bytes=") for request in hub.downloads()]
    n_asked = sum(
        int(last) - int(first) + 1 for first, _, last in (a.partition("-") for a in asked)
    )
    assert n_asked == 3 * 65536


def test_a_header_comes_through_faults_or_the_line_says_why_not(dure: Dure, hub: HubServer) -> None:
    """An overloaded server is asked again; one without ranges would send the whole model."""
    hub.faults.append(Fault(status=503, headers={"Retry-After": "0"}))
    hub.faults.append(Fault(after=1000))
    assert "architecture  qwen3" in dure("show", NAME).stdout
    hub.faults.append(Fault(ignore_range=True))
    check_refusal(dure("show", NAME), FAILED, "gives no parts of files", "pull it")
    whole = {"Content-Range": f"bytes 0-65535/{len(MODEL)}"}
    hub.faults.append(Fault(ignore_range=True, headers=whole))
    check_refusal(dure("show", NAME), FAILED, "sends more than the part it was asked for")
    check_refusal(dure("show", "hf:village/Sheep-GGUF"), SENSELESS, "village/Sheep-GGUF is not on")
    hub.repos["village/Goat-GGUF"].gated = True
    check_refusal(dure("show", NAME), FAILED, "is gated", "accept its terms")
    check_refusal(dure("show", NAME, HF_HUB_OFFLINE="1"), FAILED, "HF_HUB_OFFLINE", "unset it")


def test_what_only_looks_gives_up_soon(dure: Dure, hub: HubServer) -> None:
    """An overloaded server is asked three times, and not waited for long; if none answers the error comes
    at once.
    """
    hub.faults += [Fault(status=503)] * 3
    check_refusal(dure("show", NAME), FAILED, "answers 503, 3 times in a row", "try again later")
    hub.faults.append(Fault(status=503, headers={"Retry-After": "20"}))
    check_refusal(dure("show", NAME), FAILED, "asks to wait 20 s", "try again then")
    nobody = dure("show", NAME, HF_ENDPOINT="http://127.0.0.1:1")
    check_refusal(nobody, FAILED, "no connection", "tried once", "check the network")


def test_short_names_are_listed_with_their_sizes(dure: Dure, hub: HubServer) -> None:
    """Those that the hub tells, and which of them are here; without the hub the names alone."""
    hub.repos["unsloth/Qwen3-0.6B-GGUF"] = Repo({"Qwen3-0.6B-Q4_K_M.gguf": MODEL})
    hub.repos["unsloth/Qwen3-4B-GGUF"] = Repo({"Qwen3-4B-Q4_K_M.gguf": MODEL[:5000]})
    dure("pull", "qwen3:0.6b")
    done = dure("pull", "--list", "--json")
    rows = {row["name"]: row for row in as_json(done)}
    assert list(rows) == list(short_names())
    assert (rows["qwen3:0.6b"]["size_bytes"], rows["qwen3:0.6b"]["here"]) == (len(MODEL), True)
    assert (rows["qwen3:4b"]["size_bytes"], rows["qwen3:4b"]["here"]) == (5000, False)
    assert rows["qwen3:8b"]["size_bytes"] is None
    assert "some sizes are unknown: " in done.stderr
    lines = dure("pull", "--list").stdout.splitlines()
    assert [line.split() for line in lines if line.startswith("qwen3:0.6b")] == [
        ["qwen3:0.6b", "7.4", "MB", "here", short_names()["qwen3:0.6b"]]
    ]
    offline = dure("pull", "--list", "qwen3:4b", HF_HUB_OFFLINE="1")
    assert "some sizes are unknown: HF_HUB_OFFLINE" in offline.stderr
    assert offline.stdout.splitlines()[1].split() == [
        "qwen3:4b",
        "unknown",
        short_names()["qwen3:4b"],
    ]
    some = as_json(dure("pull", "--list", "Qwen3:0", "--json"))
    assert [row["name"] for row in some] == [one for one in short_names() if "qwen3:0" in one]
    assert some[0]["name"] == "qwen3:0.6b"
    none = dure("pull", "--list", "goat")
    check_refusal(none, SENSELESS, "no short name contains 'goat'", "`dure pull --list` shows all")
    check_refusal(dure("pull"), SENSELESS, "no model is named", "--list")
