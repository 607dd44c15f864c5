"""`dure bench --share` writes what others may have of a measurement, and nothing that tells who made it."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from planning import measured_row

from dure.cli.terminal.sharing import Sharing
from dure.cluster.root.membership import Cluster
from dure.cluster.root.speeds import KnownSpeeds
from dure.cluster.trust.identity import ROOT_NAME
from dure.engine.instruments.speed import Speed
from dure.hardware.probe import probe
from dure.model.gguf import open_gguf
from dure.model.gguf.values import TensorSpec, ValueKind, array_of
from dure.model.gguf.writer import GgufWriter
from dure.plan.load import main_type_of
from dure.plan.measurements import read_measurement
from dure.plan.model_record import model_record
from tests.support.dure_process import Dure, as_json, error_line

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
RUNS = ("-p", "32", "-n", "32", "--repeat", "2")


@pytest.fixture
def dure(tmp_path: Path) -> Iterator[Dure]:
    """The program, with a cluster of its own; none of its processes is left behind."""
    program = Dure(tmp_path / "cache")
    program.environment["DURE_CLUSTER_DIR"] = str(tmp_path / "cluster")
    yield program
    assert program.left_behind() == []


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose folder and file have names that nobody else should see."""
    path = tmp_path / "diary-of-mallory" / "secret-finetune.gguf"
    path.parent.mkdir()
    path.symlink_to(DEMO)
    return path


def telltales() -> set[str]:
    """What tells this machine and its user from others."""
    addresses = {
        one.address.partition("%")[0]
        for interface in psutil.net_if_addrs().values()
        for one in interface
    }
    return {socket.gethostname(), str(Path.home()), f'"{getpass.getuser()}"', *addresses}


def test_a_record_has_the_measurement_and_nothing_personal(
    dure: Dure, model: Path, tmp_path: Path
) -> None:
    """It is shown before it is written; with --json it is in the output, and the same."""
    record = tmp_path / "record.toml"
    done = dure("bench", model, *RUNS, "--share", record, "--yes", "--json")
    facts = as_json(done)
    text = record.read_text()
    assert text in done.stderr
    assert "no address" in done.stderr
    for told in {*telltales(), "mallory", "secret", str(tmp_path), "home"}:
        assert told not in text
    found = read_measurement(text, "record.toml")
    assert facts["shared"]["file"] == str(record)
    assert facts["shared"]["record"] == found.facts()
    (row,) = facts["rows"]
    speed = row["generation"]["tokens_per_s"]["median"]
    assert found.runs[0].generation.per_s == pytest.approx(speed, rel=1e-3)
    with open_gguf(DEMO) as gguf:
        assert found.model == model_record(gguf)
    (machine,) = found.machines
    assert (machine.cores, machine.threads, machine.share) == (probe().cores, row["threads"], 1.0)
    assert set(machine.features) == set(probe().features)
    assert abs(machine.memory_gib / (probe().memory_bytes / 2**30) - 1) < 0.3
    assert re.fullmatch(r"20\d\d-\d\d", found.month)
    assert not machine.reads
    assert machine.layer_s is None
    assert found.runs[0].prompt.predicted is None


def test_a_record_has_what_was_predicted_of_the_machine(dure: Dure, tmp_path: Path) -> None:
    """And the speeds that this was predicted from. Of lists of lengths, all runs are in it."""
    Cluster.create(tmp_path / "cluster", "attic-of-mallory")
    with open_gguf(DEMO) as gguf:
        wanted = main_type_of(gguf)
    for _ in range(3):
        speed = Speed(wanted, probe().cores, 10e9, 100e9, layer_s=1e-5)
        KnownSpeeds(tmp_path / "cluster").keep(ROOT_NAME, speed=speed)
    record = tmp_path / "record.toml"
    done = dure("bench", DEMO, *RUNS, "-n", "32,48", "--share", record, "--yes")
    assert done.returncode == 0, done.stderr
    assert "mallory" not in record.read_text()
    found = read_measurement(record.read_text(), "record.toml")
    assert [run.generation.tokens for run in found.runs] == [32, 48]
    for run in found.runs:
        for one in (run.prompt, run.generation):
            assert one.predicted is not None
            assert one.predicted_low is not None
            assert one.predicted_low < one.predicted
    (machine,) = found.machines
    assert (machine.reads, machine.layer_s) == ({wanted: 10e9}, 1e-5)
    assert machine.multiplies.keys() == machine.reads.keys()


@pytest.mark.parametrize(("answer", "is_written"), [("y", True), ("n", False)])
def test_on_a_terminal_it_asks_before_it_writes(
    dure: Dure, tmp_path: Path, answer: str, *, is_written: bool
) -> None:
    """After it has shown the record."""
    record = tmp_path / "record.toml"
    with dure.terminal("bench", DEMO, *RUNS, "--share", record) as terminal:
        terminal.read_until("[model]", "[[runs]]", "[Y/n]")
        assert not record.exists()
        terminal.type(f"{answer}\n")
        said = terminal.read_all()
        assert terminal.process.wait() == 0
    assert record.exists() == is_written
    assert ("pull request" in said) == is_written
    assert ("Nothing was written" in said) != is_written


def test_a_file_that_is_there_is_kept_without_force(dure: Dure, tmp_path: Path) -> None:
    """Nothing is measured then; with --force it is replaced."""
    record = tmp_path / "record.toml"
    record.write_text("mine")
    done = dure("bench", DEMO, *RUNS, "--share", record, "--yes")
    assert done.returncode == 2
    assert "is there already: add --force to replace it" in error_line(done.stderr)
    assert (done.stdout, record.read_text()) == ("", "mine")
    assert dure("bench", DEMO, *RUNS, "--share", record, "--yes", "--force").returncode == 0
    assert read_measurement(record.read_text(), "record.toml").runs


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--share", "r.toml"), "--share asks before it writes: add --yes"),
        (("--share", "r.toml", "--json"), "add --yes"),
        (("--share", "no/such/r.toml", "--yes"), "there is no folder"),
        (("--share", ".", "--yes"), ". is a folder: name a file"),
        (("--share", "r.toml", "--yes", "-n", "8"), "give 32 or more to -p and -n"),
        (("--share", "r.toml", "--yes", "-t", "1,2"), "give one to -t"),
        (("--share", "r.toml", "--yes", "--trace", "t.json"), "leave one of them out"),
        (("--share", "r.toml", "--yes", "--ranks", "2"), "several ranks on one machine"),
        (("--yes",), "--yes is for --share"),
        (("--force",), "--force is for --share"),
    ],
)
def test_what_would_say_nothing_to_others_is_refused_before_it_runs(
    dure: Dure, arguments: tuple[str, ...], error: str
) -> None:
    """In one line, with exit code 2."""
    done = dure("bench", DEMO, *RUNS, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert error in error_line(done.stderr)


def test_a_model_that_no_plan_knows_is_refused_before_it_runs(dure: Dure, tmp_path: Path) -> None:
    """With numbers of heads that differ from layer to layer, nobody could predict it."""
    path = tmp_path / "unlike.gguf"
    with open_gguf(DEMO) as gguf:
        metadata = {
            **gguf.metadata,
            "qwen3.attention.head_count": array_of(ValueKind.UINT32, [8, 4]),
        }
        specs = [TensorSpec(one.name, one.shape, one.type) for one in gguf.tensors.values()]
        with GgufWriter(path, metadata, specs) as writer:
            for tensor in gguf.tensors.values():
                writer.write(gguf.read(tensor, 0, tensor.size_bytes))
    done = dure("bench", path, *RUNS, "--share", tmp_path / "r.toml", "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "differs from layer to layer" in error_line(done.stderr)


def test_what_the_catalogue_would_take_is_what_was_written(dure: Dure, tmp_path: Path) -> None:
    """A record in the catalogue's folder is a line of the docs."""
    record = tmp_path / "this-machine-demo.toml"
    assert dure("bench", DEMO, *RUNS, "--share", record, "--yes").returncode == 0
    found = read_measurement(record.read_text(), record.name)
    row = measured_row(record.stem, found, found.runs[0])
    assert row.startswith("| this-machine-demo | ")
    assert "qwen3, 4 layers of 256 | F16, 16.00 bits" in row


def test_a_machine_with_other_work_is_told_of(
    dure: Dure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Since its speeds say little; the record has the part of the tokens that were slower."""
    path = tmp_path / "record.toml"
    assert dure("bench", DEMO, *RUNS, "--share", path, "--yes").returncode == 0
    record = read_measurement(path.read_text(), path.name)
    for disturbed, is_told in ((0.0, False), (0.52, True)):
        runs = tuple(msgspec.structs.replace(run, disturbed=disturbed) for run in record.runs)
        sharing = Sharing(path, yes=True, force=True)
        sharing.offer(msgspec.structs.replace(record, runs=runs))
        assert ("made 52% of the tokens slower" in capsys.readouterr().err) == is_told
        assert f"disturbed = {disturbed}" in path.read_text()
