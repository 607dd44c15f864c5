"""Measurements that people share: every record of the catalogue is read, and predicted like its model."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import msgspec
import pytest
from planning import measured_row

from dure.errors import UsageError
from dure.model.gguf import open_gguf
from dure.plan.demand import demand_of
from dure.plan.measurements import (
    LinkRecord,
    MachineRecord,
    Measurement,
    RunRecord,
    SpeedRecord,
    measurements,
    read_measurement,
    rounded_gib,
)
from dure.plan.model_record import model_record
from dure.plan.outline import outline_named, outlined_model
from dure.plan.outlook import Task, outlook_of
from dure.plan.setups import setup_of

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
PERSONAL = re.compile(
    r"\d+\.\d+\.\d+\.\d+|([0-9a-f]{1,4}:){3,}|@[a-z]|/(home|root|Users)/", re.IGNORECASE
)


def pi5(share: float) -> MachineRecord:
    return MachineRecord(
        processor="Raspberry Pi 5 Model B Rev 1.0",
        architecture="aarch64",
        features=("asimd", "asimddp"),
        cores=4,
        memory_gib=8,
        threads=4,
        share=share,
    )


def four_boards(name: str = "qwen3:30b-a3b", processor: str = "") -> Measurement:
    """What four Pi 5 would share."""
    outline = outline_named(name)
    assert outline is not None
    speed = SpeedRecord(512, 5, 60.0, 59.0, 61.0, 61.3, 51.2, 73.2)
    run = RunRecord(0, speed, SpeedRecord(128, 5, 11.0, 10.9, 11.1), 59.4, 11.5, 2.0, 1e5, 0.0)
    machines = [pi5(0.25)] * 4
    if processor:
        machines[3] = msgspec.structs.replace(machines[3], processor=processor)
    return Measurement(
        month="2026-11",
        software={"dure": "0.1.0", "llama.cpp": "0.3.36"},
        sync="q8",
        model=model_record(outlined_model(name, outline, "Q4_K_M")),
        machines=tuple(machines),
        link=LinkRecord(117e6, 128e-6),
        runs=(run,),
    )


def test_every_record_of_the_catalogue_is_read() -> None:
    """And nothing else lies there; each is of a quiet machine, and has no address and no home."""
    folder = resources.files("dure.plan.catalogue") / "measurements"
    files = sorted(one.name for one in folder.iterdir())
    assert files == ["README.md", *(f"{name}.toml" for name in measurements())]
    for name, one in measurements().items():
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name)
        assert demand_of(one.model.header(), [m.share for m in one.machines]).n_ranks >= 1
        assert all(run.is_quiet for run in one.runs)
        assert not PERSONAL.search((folder / f"{name}.toml").read_text())


def test_a_record_is_the_same_after_it_was_written_and_read() -> None:
    """As TOML, with names that need quotes."""
    record = four_boards(processor='Board "X" \\ 5°')
    assert read_measurement(record.text(), "x.toml") == record


@pytest.mark.parametrize("quantization", ["Q4_K_M", "2.7bpw", "Q40"])
@pytest.mark.parametrize("name", ["qwen3:0.6b", "llama3.1:8b", "qwen3:30b-a3b", "gemma3:4b"])
def test_a_record_asks_of_machines_what_its_model_does(name: str, quantization: str) -> None:
    """Of one and of two ranks: the same bytes and weights of each type, cache and sums."""
    outline = outline_named(name)
    assert outline is not None
    model = outlined_model(name, outline, quantization)
    record = model_record(model)
    assert record.name == record.title == name
    for shares in ([1.0], [2.0, 1.0]):
        demand, found = demand_of(model, shares), demand_of(record.header(), shares)
        assert found.n_sums == demand.n_sums
        assert found.part_of_experts == demand.part_of_experts
        for one, other in zip(found.ranks, demand.ranks, strict=True):
            assert sorted(one.products, key=repr) == sorted(other.products, key=repr)
            assert one.kv_bytes(4096) == other.kv_bytes(4096)


def test_a_file_becomes_a_record_without_its_names() -> None:
    """A model that the catalogue does not have is told by its sizes."""
    with open_gguf(DEMO) as model:
        record = model_record(model)
        demand = demand_of(model)
    assert record.name == ""
    assert record.title == "qwen3, 4 layers of 256"
    assert record.types == "F16, 16.00 bits"
    assert demand_of(record.header()).whole.read_bytes == demand.whole.read_bytes
    assert "dure" not in str(msgspec.to_builtins(record))


def test_machines_of_the_catalogue_are_recognized_and_predicted() -> None:
    """By what Linux calls them, and their memory; one that is not there leaves the speeds unpredicted."""
    record = four_boards()
    setup = record.in_catalogue()
    assert setup is not None
    assert setup.title == "4 x Raspberry Pi 5, 8 GB"
    found = record.predicted(record.runs[0])
    assert found is not None
    outline = outline_named("qwen3:30b-a3b")
    assert outline is not None
    model = outlined_model("qwen3:30b-a3b", outline, "Q4_K_M")
    planned = outlook_of(model, setup_of({"pi5-8gb": 4}, "1gbe"), Task()).prediction
    assert planned is not None
    assert found.generation.value == pytest.approx(planned.generation.per_s, rel=0.02)
    other = four_boards(processor="Board 7")
    assert other.in_catalogue() is None
    assert other.predicted(other.runs[0]) is None


def test_a_record_is_a_line_of_the_docs() -> None:
    """With what was predicted on its machines and what the catalogue predicts, each with its error."""
    record = four_boards()
    cells = measured_row("four-pi5", record, record.runs[0]).strip("| ").split(" | ")
    assert cells[:5] == [
        "four-pi5",
        "4 x Raspberry Pi 5 Model B Rev 1.0, 4 cores, 8 GiB",
        "936 Mbit/s, 0.13 ms",
        "qwen3:30b-a3b",
        "Q4_K, 4.86 bits",
    ]
    assert cells[6] == "11"
    assert cells[9:11] == ["60", "61.3 (+2%)"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('month = "2026-11"', 'month = "2026-11-30"'),
        ('month = "2026-11"', 'month = "2026-11"\nhost = "attic"'),
        ("cores = 4", "cores = 0"),
        ("per_s = 60.0", "per_s = -1.0"),
        ('sync = "q8"', "sync = q8"),
    ],
)
def test_a_record_that_is_none_is_refused_by_name(old: str, new: str) -> None:
    """Fields that the format lacks are refused too, so that nothing else gets into it."""
    text = four_boards().text()
    assert old in text
    with pytest.raises(UsageError, match=r"attic\.toml is no measurement"):
        read_measurement(text.replace(old, new, 1), "attic.toml")


@pytest.mark.parametrize(
    ("gib", "sold"),
    [(0.42, 0.5), (0.9, 1), (3.7, 4), (7.75, 8), (11.6, 12), (15.6, 16), (62.7, 64), (251, 256)],
)
def test_memory_is_told_as_it_was_sold(gib: float, sold: float) -> None:
    """What Linux has to a page would distinguish machines."""
    assert rounded_gib(gib * 2**30) == sold
