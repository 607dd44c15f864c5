"""`dure node add`: machines with a real sshd become nodes, and what is in the way is told with its cure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dure.cluster.add.adding import destinations
from dure.cluster.add.inspecting import HostFacts, host_facts
from dure.cluster.add.package import Package, package_of, recorded
from dure.cluster.add.preparing import AddOptions, AddStep, ScriptInput, planned
from dure.cluster.add.ssh import Destination
from dure.cluster.software import PACKAGES
from dure.errors import ClusterError, UsageError
from tests.support.needs_root import needs_root
from tests.support.ssh_hosts import KEY, Computer, bare, computers, wheel

WANTED = {"dure": "1.0", "llama.cpp": "0.3.36", "mpich": "5.0.2"}


@pytest.fixture
def three() -> Iterator[list[Computer]]:
    """A root with a cluster, and two machines that know nothing of dure."""
    with computers(3) as found:
        found[0].dure("cluster", "init", "--name", "attic")
        yield found


@pytest.fixture
def package(tmp_path: Path) -> str:
    """The dure under test as a wheel, told to pip or copied."""
    return str(wheel(tmp_path))


def added(root: Computer, package: str, *arguments: str, status: int) -> dict[str, Any]:
    """How each host ended."""
    told = root.dure("node", "add", "--json", "--from", package, *arguments, status=None)
    outcomes = json.loads(told[told.index("[\n") : told.rindex("\n]\n") + 2])
    assert status == int(any(one["state"] == "failed" for one in outcomes))
    return {one["host"]: one for one in outcomes}


def answering(root: Computer) -> dict[str, bool]:
    nodes = json.loads(root.dure("cluster", "status", "--json"))["nodes"]
    return {node["name"]: node["answers"] for node in nodes}


# ---------------------------------------------------------------- real machines


@needs_root
def test_two_machines_become_nodes_and_stay_so(three: list[Computer], package: str) -> None:
    """One as a user with sudo, one as root; a second time nothing is done, and what ended is started."""
    root, one, two = three
    mine = ("ControlMaster auto", "ControlPath ~/.ssh/%C", "ControlPersist 1h", "RequestTTY force")
    alias = ("Host pi-1", f"HostName {one.host.address}", "User pi", "RemoteCommand tmux", *mine)
    root.write("/root/.ssh/config", config(*alias))
    hosts = ("pi-1", f"root@{two.host.address}:22")
    plan = root.dure("node", "add", "--dry-run", "--from", package, *hosts)
    assert "dure join - --root 10.213.0.1:7473'  # reads a new code" in plan

    first = added(root, package, *hosts, status=0)
    assert [one["node"] for one in first.values()] == [one.host.name, two.host.name]
    assert all(one["state"] == "answers" and one["platform"]["cores"] for one in first.values())
    assert all(one["done"] == ["install", "join", "service"] for one in first.values())
    assert answering(root) == {one.host.name: True, two.host.name: True}
    assert one.run("cat", "/told").splitlines()[-1] == "restart dure-node.service"
    assert "User=dure\n" in two.run("cat", "/etc/systemd/system/dure-node.service")

    again = root.dure("node", "add", "--from", package, *hosts)
    assert again.count(" answers already: ") == 2

    two.run(
        "sh", "-c", "sed -i 's/node run/node run --quota 7/' /etc/systemd/system/dure-node.service"
    )
    ends(two)
    third = added(root, package, *hosts, status=0)
    assert [one["done"] for one in third.values()] == [[], ["service"]]
    assert "node run --quota 7\n" in two.run("cat", "/etc/systemd/system/dure-node.service")
    events = [event["event"] for event in json.loads(root.dure("cluster", "events", "--json"))]
    assert sorted(events) == ["cluster_created", "invited", "invited", "joined", "joined"]


def ends(computer: Computer) -> None:
    """The node's process there ends."""
    pids = subprocess.run(
        ["ip", "netns", "pids", computer.host.name], capture_output=True, text=True, check=True
    )
    for pid in pids.stdout.split():
        if b"dure.cli.main\0node" in Path(f"/proc/{pid}/cmdline").read_bytes():
            computer.run("kill", pid)


def config(*lines: str) -> str:
    """~/.ssh/config with these lines before the usual ones."""
    return "\n".join([*lines, "Host *", f"IdentityFile {KEY}", "IdentitiesOnly yes", ""])


@needs_root
def test_one_machine_fails_and_the_others_do_not(three: list[Computer], package: str) -> None:
    """Every way not to get in, or not to be fit, is told with its cure; one machine joins meanwhile."""
    root, one, two = three
    root.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/other")
    key_of_one = one.key.strip()
    root.write("/root/.ssh/changed", f"{two.host.address} {key_of_one}\n")
    at_two = f"HostName {two.host.address}"
    root.write(
        "/root/.ssh/config",
        config(
            *("Host wrong-key", at_two, "IdentityFile /root/.ssh/other", "IdentitiesOnly yes"),
            *("Host unknown", at_two, "UserKnownHostsFile /dev/null"),
            *("Host changed", at_two, "UserKnownHostsFile /root/.ssh/changed"),
        ),
    )
    root.run("sed", "-i", "s/^IdentityFile.*//2", "/root/.ssh/config")
    bare(two, "cc", python="3.11.2")
    good, silent, closed = f"pi@{one.host.address}", "pi@10.213.0.99", f"pi@{two.host.address}:2"
    unfit = f"bare@{two.host.address}"
    hosts = (good, "unknown", "changed", silent, closed, unfit, "pi@no.such.machine.invalid")
    told = added(root, package, "--no-service", *hosts, status=1)
    assert told[good]["state"] == "joined"
    assert told[good]["done"] == ["install", "join"]
    failures = {host: one["failure"] for host, one in told.items() if one["failure"]}
    assert set(failures) == set(hosts) - {good}
    assert "`ssh unknown` once" in failures["unknown"]["cure"]
    assert "`ssh-keygen -R changed`" in failures["changed"]["cure"]
    assert "is it on" in failures[silent]["cure"]
    assert failures[closed]["reason"] == "nothing listens for ssh there"
    assert "typing mistake" in failures["pi@no.such.machine.invalid"]["cure"]
    assert failures[unfit]["step"] == "check"
    assert failures[unfit]["reason"] == "it lacks a C and C++ compiler"
    assert failures[unfit]["cure"] == "`sudo apt install build-essential` on it"
    bare(two, "cc", "c++", python="3.9.2")
    old = root.dure("node", "add", "--from", package, unfit, status=1)
    assert f"{unfit}: check failed: it has Python 3.9.2, and dure needs Python 3.11 or newer" in old
    root.write("/root/.ssh/config", "IdentityFile /root/.ssh/other\nIdentitiesOnly yes\n")
    wrong = root.dure("node", "add", "--from", package, f"pi@{two.host.address}:22", status=1)
    assert f"cure: `ssh-copy-id -p 22 pi@{two.host.address}` once" in wrong
    assert answering(root) == {one.host.name: False}


@needs_root
def test_sudo_that_wants_a_password_is_left_to_the_user(
    three: list[Computer], package: str
) -> None:
    """All but the service is done; the command that is shown does the rest."""
    root, one, _ = three
    guest = f"guest@{one.host.address}"
    told = added(root, package, guest, status=1)
    assert told[guest]["node"] == one.host.name
    assert told[guest]["done"] == ["install", "join"]
    failure = told[guest]["failure"]
    assert (failure["step"], failure["reason"]) == ("service", "sudo wants a password there")
    start = f"`ssh -t {guest} '"
    assert failure["cure"].startswith(f"{start}sudo env DURE_NODE_DIR=/home/guest/")
    by_hand = failure["cure"].removeprefix(f"{start}sudo ").removesuffix("'`")
    one.run("sh", "-c", by_hand)
    assert added(root, package, guest, status=0)[guest]["state"] == "answers"


@needs_root
def test_who_belongs_elsewhere_or_takes_a_name_is_told(three: list[Computer], package: str) -> None:
    """A node of another cluster is left alone; a name is taken once; a removed node comes back."""
    root, one, two = three
    pi = f"pi@{one.host.address}"
    assert (
        added(root, package, "--no-service", "--name", "attic-1", pi, status=0)[pi]["node"]
        == "attic-1"
    )
    again = f"pi@{two.host.address}"
    taken = added(root, package, "--no-service", "--name", "attic-1", again, status=1)[again]
    assert taken["failure"]["step"] == "join"
    assert taken["failure"]["reason"] == "a node called attic-1 is there already"
    behind = added(root, package, "--no-service", "--root", "10.213.0.3", again, status=1)[again]
    assert behind["failure"]["reason"] == "it does not reach this root at 10.213.0.3:7473"
    assert "--root HOST" in behind["failure"]["cure"]
    root.dure("cluster", "remove", "attic-1")
    back = added(root, package, "--no-service", pi, status=0)[pi]
    assert (back["node"], back["done"]) == (one.host.name, ["join"])
    root.run("rm", "-r", "/root/.local/share/dure/cluster")
    root.dure("cluster", "init", "--name", "cellar")
    elsewhere = added(root, package, "--no-service", pi, status=1)[pi]["failure"]
    assert elsewhere["reason"] == f"it is {one.host.name} of another cluster, attic"
    assert "rm -r /home/pi/.local/share/dure/node" in elsewhere["cure"]


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("pi-1", ["pi-1"]),
        ("pi@192.168.1.11", ["pi@192.168.1.11"]),
        ("pi@pi-1.local:2222", ["-p", "2222", "pi@pi-1.local"]),
        ("ssh://pi@pi-1:22/", ["-p", "22", "pi@pi-1"]),
        ("pi@[fd00::1]:22", ["-p", "22", "pi@fd00::1"]),
        ("fd00::1", ["fd00::1"]),
    ],
)
def test_a_host_is_what_ssh_takes(text: str, arguments: list[str]) -> None:
    assert Destination.parse(text).arguments == arguments


@pytest.mark.parametrize(
    "text",
    ["", "-oProxyCommand=x", "pi@", "@host", "a b", "host:0", "host:port", "-x@host", "pi@-host"],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    """Above all what ssh would take for an option."""
    with pytest.raises(UsageError, match="is no host"):
        Destination.parse(text)


def test_a_name_is_for_one_machine() -> None:
    with pytest.raises(UsageError, match="for one host"):
        destinations(["one", "two"], AddOptions(Package("dure"), name="pi"))
    assert len(destinations(["one", "one"], AddOptions(Package("dure"), name="pi"))) == 1


FIT = HostFacts(
    system="Linux",
    processor="aarch64",
    uid=1000,
    base="/home/pi/.local/share/dure",
    user="pi",
    user_home="/home/pi",
    user_exists=True,
    reached_from="192.168.1.10",
    cores=4,
    memory_bytes=2_000_000_000,
    python="python3",
    has_venv=True,
    is_64_bit=True,
    has_compilers=True,
    free_bytes=10_000_000_000,
    node_directory="/home/pi/.local/share/dure/node",
)


def changed(**facts: Any) -> HostFacts:
    return HostFacts(**{name: getattr(FIT, name) for name in FIT.__dataclass_fields__} | facts)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"system": "Darwin"}, "Linux"),
        ({"processor": "armv7l"}, "64-bit"),
        ({"is_64_bit": False}, "64-bit"),
        ({"python": "", "python_seen": "Python 3.9.2"}, "Python 3.9.2"),
        ({"has_venv": False}, "apt install python3-venv`"),
        ({"has_venv": False, "has_compilers": False}, "apt install python3-venv build-essential`"),
        ({"free_bytes": 1_000_000_000}, "1.0 GB are free"),
    ],
)
def test_an_unfit_machine_is_told_why(facts: dict[str, Any], words: str) -> None:
    assert FIT.why_unfit() is None
    assert words in str(changed(**facts).why_unfit() or "")


def test_only_what_is_lacking_is_planned() -> None:
    """A new machine gets all; one with the right dure joins; a member is only started."""
    options = AddOptions(Package("dure==1.0"))
    new = planned(FIT, options, WANTED, member=False)
    assert [action.step for action in new] == [AddStep.INSTALL, AddStep.JOIN, AddStep.SERVICE]
    assert "-U__AMX_INT8__" in new[0].script
    assert "CMAKE_BUILD_PARALLEL_LEVEL=2\n" in new[0].script  # 2 GB do not hold four compilers
    assert new[1].sends == ScriptInput.CODE
    same = changed(versions=WANTED)
    assert [a.step for a in planned(same, options, WANTED, member=False)] == [
        AddStep.JOIN,
        AddStep.SERVICE,
    ]
    assert [a.step for a in planned(same, options, WANTED, member=True)] == [AddStep.SERVICE]
    older = changed(versions={**WANTED, "dure": "0.9"})
    assert planned(older, options, WANTED, member=True)[0].step == AddStep.INSTALL
    quiet = AddOptions(Package("dure==1.0"), service=False)
    assert planned(same, quiet, WANTED, member=True) == []


def test_what_a_machine_says_is_read_among_other_words() -> None:
    said = ["Welcome!", "dure:system=Linux", 'dure:node={"name": "a", "cluster": "b", "port": 1}']
    said += [f"dure:version_{package}=1" for package in PACKAGES.values()]
    facts = host_facts(said)
    assert (facts.system, facts.node_name, facts.node_cluster) == ("Linux", "a", "b")
    assert facts.versions == dict.fromkeys(PACKAGES, "1")
    with pytest.raises(ClusterError, match="make no sense"):
        host_facts(["dure:uid=nobody"])


def test_others_install_what_was_installed_here(tmp_path: Path) -> None:
    """What pip noted of a checkout, a repository or an address; else the version in the index."""
    (tmp_path / "pyproject.toml").touch()
    checkout = json.dumps({"url": tmp_path.as_uri(), "dir_info": {}})
    assert recorded(checkout, "1.0") == Package(path=tmp_path)
    gone = json.dumps({"url": (tmp_path / "gone").as_uri(), "dir_info": {}})
    assert recorded(gone, "1.0") == recorded(None, "1.0") == Package("dure==1.0")
    git = {"url": "https://example.org/dure", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    assert recorded(json.dumps(git), "1.0").words == "dure @ git+https://example.org/dure@abc"


def test_a_checkout_travels_without_what_is_not_source(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("src/dure/a.py", ".git/b", ".venv/c", "models/d.gguf", "build/e", "native/f.c"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x")
    (checkout / "pyproject.toml").touch()
    packed = package_of(str(checkout)).packed(tmp_path)
    listed = subprocess.run(["tar", "tzf", packed], capture_output=True, text=True, check=True)
    files = {name for name in listed.stdout.split() if not name.endswith("/")}
    assert files == {"dure/pyproject.toml", "dure/src/dure/a.py", "dure/native/f.c"}


@pytest.mark.parametrize("text", ["./gone.whl", "gone-1.0.tar.gz", "-r requirements.txt", " "])
def test_what_is_no_package_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no such file"):
        package_of(text)


def test_join_reads_a_code_from_its_input(tmp_path: Path) -> None:
    """So that no list of processes shows it."""
    done = subprocess.run(
        [sys.executable, "-m", "dure.cli.main", "join", "-"],
        env={"DURE_NODE_DIR": str(tmp_path), "COLUMNS": "200"},
        input="NO-CODE\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "'NO-CODE' is no code" in done.stderr


def test_join_says_its_error_as_a_record_to_a_program(tmp_path: Path) -> None:
    """On one line of its output; a person reads the same error, with the same exit status."""
    done = subprocess.run(
        [sys.executable, "-m", "dure.cli.main", "join", "NO-CODE", "--json"],
        env={"DURE_NODE_DIR": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    record = json.loads(done.stdout)
    assert done.returncode == 2
    assert (record["kind"], record["problem"]) == ("UsageError", "'NO-CODE' is no code")
    assert f"dure: {record['problem']}: {record['cure']}" in done.stderr
