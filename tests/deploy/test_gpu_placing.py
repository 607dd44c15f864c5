"""Each rank's layers go to the GPU of its machine, and what does not fit is told by the machine's name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dure.cluster.root.speeds import KnownSpeeds, of_gpu
from dure.deploy.gpu import RankGpu, check_gpu, placed_on_gpus
from dure.deploy.options import RunOptions
from dure.engine.instruments.speed import Speed
from dure.errors import DureError, GpuMemoryError, ResourceError, UsageError, revived
from dure.hardware.gpu import Gpu
from dure.model.cut import plan_cut
from dure.model.gguf import GgufFile, open_gguf
from dure.model.shard import plan_shards
from dure.plan.gpu_layers import GpuLayers
from dure.plan.memory import rank_memory

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
GB = 10**9
CARD = Gpu("CUDA0", "a card of 24 GB", 24 * GB, 25 * GB)
CLUSTER = RunOptions(cluster=True)


@pytest.fixture
def demo() -> Iterator[GgufFile]:
    with open_gguf(DEMO) as model:
        yield model


def placed(
    model: GgufFile, gpus: list[Gpu | None], options: RunOptions = CLUSTER, part: float = 1.0
) -> list[GpuLayers | None]:
    cut = plan_cut(model, [1.0] * len(gpus))
    shards = plan_shards(model, cut, Path())
    memory = [rank_memory(cut, shard.size) for shard in shards]
    names = ["the root", "pi-1", "desktop"]
    ranks = [RankGpu(name, gpu) for name, gpu in zip(names, gpus, strict=False)]
    return placed_on_gpus(ranks, model, options, cut, shards, memory, part)


def test_a_machine_with_a_gpu_uses_it_and_the_others_their_processors(demo: GgufFile) -> None:
    root, pi, desktop = placed(demo, [None, None, CARD])
    assert root is None
    assert pi is None
    assert desktop is not None
    assert desktop.n == desktop.n_all
    assert desktop.gpu == CARD


def test_fewer_layers_are_tried_after_those_that_should_fit_and_a_number_stays(
    demo: GgufFile,
) -> None:
    (half, _) = placed(demo, [CARD, None], part=0.5)
    assert half is not None
    assert half.n == half.n_all // 2
    assert placed(demo, [CARD, None], part=0.0) == [None, None]
    (asked, _) = placed(demo, [CARD, None], RunOptions(cluster=True, gpu_layers=2), part=0.5)
    assert asked is not None
    assert asked.n == 2


def test_processors_compute_all_where_that_is_asked_for_or_inputs_are_gathered(
    demo: GgufFile,
) -> None:
    for options in (RunOptions(gpu_layers=0), RunOptions(gathers_inputs=True)):
        assert placed(demo, [CARD, CARD], options) == [None, None]


def test_a_card_that_is_too_small_is_named_with_its_machine(demo: GgufFile) -> None:
    """If a number was asked for; of themselves no layers go there."""
    small = replace(CARD, free_bytes=GB // 1000)
    with pytest.raises(GpuMemoryError, match=r"^pi-1: 3 layers .* on a card of 24 GB, where"):
        placed(demo, [CARD, small], RunOptions(cluster=True, gpu_layers=3))
    assert placed(demo, [CARD, small])[1] is None


def test_layers_that_no_machine_has_a_gpu_for_are_refused(demo: GgufFile) -> None:
    with pytest.raises(ResourceError, match=r"llama\.cpp sees no GPU on the root, pi-1: build it"):
        placed(demo, [None, None], RunOptions(cluster=True, gpu_layers=3))


def test_a_cluster_may_have_gpus_that_the_root_knows_nothing_of() -> None:
    check_gpu(RunOptions(cluster=True, gpu_layers=3))
    with pytest.raises(UsageError, match="an importance matrix is gathered on the processor"):
        check_gpu(RunOptions(gpu_layers=3, gathers_inputs=True))


def test_a_gpus_speed_is_kept_beside_that_of_the_processor(tmp_path: Path) -> None:
    known = KnownSpeeds(tmp_path)
    known.keep("pi-1", Speed("Q4_0", 4, 1e9, 1e9))
    known.keep("pi-1", Speed("Q4_0", 4, 9e9, 9e9, gpu="CUDA0"))
    known = KnownSpeeds(tmp_path)
    found = [known.speed("pi-1", name) for name in ("Q4_0", of_gpu("Q4_0"))]
    assert [(one.decode_bytes_per_s, one.gpu) for one in found if one] == [
        (1e9, ""),
        (9e9, "CUDA0"),
    ]


def test_a_gpus_short_memory_stays_that_error_on_its_way_from_a_rank() -> None:
    """A start then tries fewer layers."""
    error: DureError = GpuMemoryError("CUDA0 has no memory", "use fewer")
    assert isinstance(revived(error.record()), GpuMemoryError)
