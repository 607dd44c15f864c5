"""Network volumes: made once, mounted by name, told with their price, and only ours are deleted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dure.errors import UsageError
from dure.pods.emulator.faults import ALWAYS, Fault
from dure.pods.ledger import PodState
from dure.pods.money import Money
from dure.pods.provider import ConflictError, LostAnswerError, PodError
from dure.pods.volumes import Volumes, volume_cost
from tests.support.pod_accounts import HOUR_S, Renting, renting
from tests.support.pod_person import UP, Person, a_person

THEIRS = {"name": "theirs", "size": 100, "dataCenter": "EMU-1"}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Renting]:
    with renting(tmp_path) as home:
        yield home


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    with a_person(tmp_path) as person:
        yield person


def volumes(home: Renting) -> Volumes:
    return Volumes(home.provider, home.ledger, home.wait)


def test_a_volume_from_its_bill_to_its_end(person: Person) -> None:
    """Its price is shown before, wherever pods are listed, and in what all has cost."""
    create = ("volume", "create", "models", "--data-center", "EMU-1")
    assert "50 GB in EMU-1: $3.50 a month until you delete it" in person.dure(*create, status=1)
    assert "--yes" in person.dure(*create, "--json", status=2)
    assert person.server.account.volumes.by_id == {}
    made = json.loads(person.dure(*create, "--yes", "--json"))
    assert (made["state"], made["monthly"]) == ("live", 3.5)

    up = json.loads(person.dure(*UP, "--network-volume", "models"))
    assert up["network_volume"] == made["id"]
    mounts, centers = person.pod.body["mounts"], person.pod.body["dataCenterIds"]
    assert mounts == {"network": [{"volumeId": made["id"], "path": "/workspace"}]}
    assert centers == ["EMU-1"]
    assert "models is used by w" in person.dure("volume", "rm", "models", "--yes", status=2)
    person.dure("rm", "w", "--yes")

    assert "50 GB in EMU-1, $3.50 a month" in person.dure("ls")
    assert person.json("ls")["network_volumes"][0]["made_here"]
    person.server.account.clock.forward(10 * 24 * HOUR_S)
    assert person.json("cost")["network_volumes"][0]["spent"] == pytest.approx(1.15, abs=0.01)
    assert "$3.50 a month in all" in person.dure("volume", "ls") + person.said[-1]
    person.dure("volume", "rm", "models", "--yes")
    assert "models is gone; it cost $1.1" in person.said[-1]
    assert person.server.account.volumes.by_id == {}
    assert person.json("volume", "ls") == []


def test_a_volume_that_somebody_else_made_is_told_and_never_deleted(home: Renting) -> None:
    """It can be used, by name or by id."""
    theirs = home.account.volumes.create(THEIRS)
    assert volumes(home).chosen("theirs").entry is None
    assert volumes(home).chosen(theirs["id"]).volume.size == 100
    for name in ("theirs", theirs["id"]):
        with pytest.raises(UsageError, match="dure has made no network volume"):
            volumes(home).deletable(name)
    assert not any(line.startswith("DELETE") for line in home.server.requests)


def test_two_of_one_name_are_told_apart_by_id(home: Renting) -> None:
    """Which one is meant is not guessed."""
    first = home.account.volumes.create(THEIRS)
    home.account.volumes.create(THEIRS)
    with pytest.raises(UsageError, match="several network volumes are named theirs"):
        volumes(home).chosen("theirs")
    assert volumes(home).chosen(first["id"]).volume.id == first["id"]
    with pytest.raises(UsageError, match="there is no network volume others"):
        volumes(home).chosen("others")


def test_a_lost_answer_makes_no_second_volume(home: Renting) -> None:
    """It is found by its label; a second of its name is refused."""
    home.account.faults.set({Fault.LOST_CREATE: 1})
    made = volumes(home).create("models", 50, "EMU-1")
    assert made.state is PodState.LIVE
    with pytest.raises(UsageError, match="lives already"):
        volumes(home).create("models", 50, "EMU-1")
    assert home.server.requests.count("POST /v2/network-volumes") == 1
    assert home.account.volumes.by_id.keys() == {made.volume_id}


def test_a_volume_that_comes_late_is_ours(home: Renting) -> None:
    """Its answer was lost, and it is listed only afterwards."""
    planned = Volumes.planned("models", 50, "EMU-1")
    home.ledger.intend_volume(planned)
    home.account.volumes.create({**THEIRS, "name": planned.label})
    assert volumes(home).chosen("models").entry is not None
    assert volumes(home).deletable("models").state is PodState.LIVE


def test_an_answer_that_never_comes_is_told(home: Renting) -> None:
    """The provider failed, and no volume is listed: nothing is asked for twice."""
    home.provider.network_volumes()
    home.account.faults.set({Fault.BROKEN_CHANGE: 1})
    with pytest.raises(LostAnswerError, match="no volume named dure-models-"):
        volumes(home).create("models", 50, "EMU-1")
    assert home.server.requests.count("POST /v2/network-volumes") == 1
    assert home.ledger.volumes()[0].state is PodState.INTENDED
    with pytest.raises(PodError, match="is not listed yet"):
        volumes(home).delete(volumes(home).deletable("models"))


def test_a_refusal_leaves_nothing(home: Renting) -> None:
    """A data center that has no storage is told with the cure, and the name is free again."""
    with pytest.raises(PodError, match="no storage in NOWHERE") as caught:
        volumes(home).create("models", 50, "NOWHERE")
    assert "--data-center" in caught.value.cure
    assert home.ledger.volumes()[0].state is PodState.REFUSED
    assert volume_cost(home.ledger.volumes()[0], home.provider.now() + HOUR_S) == Money()
    assert volumes(home).create("models", 50, "EMU-2").state is PodState.LIVE
    for size in (9, 4097):
        with pytest.raises(UsageError, match=f"--size {size}"):
            volumes(home).create("other", size, "EMU-1")


def test_a_deletion_is_read_back(home: Renting) -> None:
    """One that was accepted and did not happen never reads as one; a pod that uses it is told."""
    made = volumes(home).create("models", 50, "EMU-1")
    home.account.faults.set({Fault.DEAF_DELETE: ALWAYS})
    with pytest.raises(PodError, match=r"is still there: it costs \$3.50 a month"):
        volumes(home).delete(made)
    assert home.ledger.volumes()[0].state is PodState.LIVE
    home.account.faults.clear()
    mounts = {"network": [{"volumeId": made.volume_id, "path": "/workspace"}]}
    body = {"name": "by hand", "image": "x", "gpu": {"id": "NVIDIA L40S"}, "mounts": mounts}
    pod = home.account.create(body)
    with pytest.raises(ConflictError, match="it is used by by hand"):
        volumes(home).delete(made)
    home.account.terminate(pod["id"])
    assert volumes(home).delete(made).state is PodState.GONE


def test_no_guard_deletes_a_volume(home: Renting) -> None:
    """Its files are nowhere else."""
    volumes(home).create("models", 50, "EMU-1")
    home.clock.forward(10_000 * HOUR_S)
    home.guard()
    assert len(home.account.volumes.by_id) == 1
