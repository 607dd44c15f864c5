"""A cluster's machines as a plan takes them: what was measured of them counts, not the catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest

from dure.cluster.root.membership import Cluster
from dure.cluster.root.speeds import KnownSpeeds
from dure.cluster.trust.identity import ROOT_NAME
from dure.deploy.cluster_setup import measured_device, setup_of_cluster
from dure.deploy.options import RunOptions
from dure.deploy.reporter import SilentReporter
from dure.engine.instruments.speed import PROMPT, Speed, measure_in_process
from dure.errors import UsageError
from dure.hardware.machine import Machine
from dure.hardware.probe import probe
from dure.model.gguf import open_gguf
from dure.plan.figures import Basis
from dure.plan.outlook import Task, outlook_of

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"


def test_a_machine_has_the_speed_that_was_measured() -> None:
    """A prompt is operations, two for each weight of 18 bytes for 32, and reading once."""
    machine = Machine(4, 8_000_000_000, 6_000_000_000, ("avx2",))
    device = measured_device("here", machine, [Speed("Q4_0", 4, 10e9, 90e9)])
    processor = device.processor
    assert processor.read_speed("Q4_0") == 10e9
    assert processor.read_speed("Q6_K") == 10e9
    weight_s = (1 / 90e9 - 1 / (PROMPT * 10e9)) * 18 / 32  # without reading it, once for the prompt
    assert processor.prompt_speed("Q4_0", is_tiled=True) == pytest.approx(2 / weight_s)
    assert processor.layer_s is None
    assert processor.fews == {}
    assert device.free_bytes == 6_000_000_000
    assert processor.read.basis is Basis.MEASURED


def test_what_layers_and_vectors_take_is_the_median_of_all_types() -> None:
    """It is no type's own; the operations of a prompt are without the time of vectors."""
    machine = Machine(4, 8_000_000_000, 6_000_000_000, ("avx2",))
    speeds = [Speed("Q4_0", 4, 10e9, 90e9, 6e-6, 1e-9), Speed("Q8_0", 4, 10e9, 180e9, 8e-6, 3e-9)]
    processor = measured_device("here", machine, speeds).processor
    assert processor.layer_s is not None
    assert processor.layer_s.value == 7e-6
    assert processor.column_s is not None
    assert processor.column_s.value == 2e-9
    without = measured_device("here", machine, [Speed("Q4_0", 4, 10e9, 90e9)]).processor
    assert processor.prompt_speed("Q4_0", is_tiled=True) > without.prompt_speed(
        "Q4_0", is_tiled=True
    )


def test_few_tokens_at_once_have_a_speed_of_their_own() -> None:
    """As operations, with what is read for them."""
    machine = Machine(4, 8_000_000_000, 6_000_000_000, ("avx2",))
    speed = Speed("Q4_0", 4, 10e9, 90e9, 0.0, 0.0, 45e9)
    processor = measured_device("here", machine, [speed]).processor
    assert processor.fews["Q4_0"].value == pytest.approx(2 * 45e9 * 32 / 18)
    assert (processor.n_few, processor.n_many) == (16, PROMPT)


def test_a_machine_shows_how_it_reads_multiplies_and_what_layers_take_besides() -> None:
    """A real measurement, in a process of its own: all of it is there, and of the size of computers."""
    speed = measure_in_process("Q4_0", 1)
    assert 1e8 < speed.decode_bytes_per_s < 1e12
    assert speed.prompt_bytes_per_s > speed.decode_bytes_per_s
    assert 1e-8 < speed.layer_s < 1e-2
    assert 0 <= speed.column_s < 1e-6
    assert 0 < speed.weight_s < 1e-9
    assert speed.few_weight_s is not None
    assert speed.weight_s / 2 < speed.few_weight_s < 1e-8


def test_a_cluster_is_planned_with_what_is_known_of_its_machines(tmp_path: Path) -> None:
    """Twice the measured speed is twice the predicted one, nearly; the root alone has no sums."""
    cluster = Cluster.create(tmp_path / "cluster", "field")
    speeds = []
    with open_gguf(DEMO) as model:
        for read in (5e9, 10e9):
            known = KnownSpeeds(cluster.directory)
            types = {tensor.type.name for tensor in model.tensors.values()}
            for type_name in types:
                for _ in range(5):
                    known.keep(ROOT_NAME, speed=Speed(type_name, 1, read, 10 * read))
            options = RunOptions(cluster=True)
            found = setup_of_cluster(model, options, cluster, SilentReporter())
            assert found.shares == (1.0,)
            assert found.setup.devices[0].free_bytes <= probe().memory_bytes
            outlook = outlook_of(model, found.setup, Task(), found.shares)
            assert outlook.prediction is not None
            assert outlook.prediction.generation.sync_s == 0
            speeds.append(1 / outlook.prediction.generation.compute_s)
    assert speeds[1] == pytest.approx(2 * speeds[0])


def test_a_node_that_the_cluster_has_not_is_refused(tmp_path: Path) -> None:
    """As a start refuses it; a plan for the root alone would be no answer."""
    cluster = Cluster.create(tmp_path / "cluster", "field")
    options = RunOptions(cluster=True, nodes="pi-9")
    with open_gguf(DEMO) as model, pytest.raises(UsageError, match="pi-9"):
        setup_of_cluster(model, options, cluster, SilentReporter())
