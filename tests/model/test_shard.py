"""Shards: valid GGUF files, written once, found again, and never half there."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from dure.errors import ResourceError
from dure.model.cut import plan_cut
from dure.model.gguf import open_gguf
from dure.model.shard import Shard, cut_model, is_finished, plan_shards
from tests.support.random_models import SHAPES, reference_logits, write_random_model

CUT = """
import sys
from pathlib import Path
from dure.model.cut import plan_cut
from dure.model.gguf import open_gguf
from dure.model.shard import cut_model, plan_shards
with open_gguf(Path(sys.argv[1])) as model:
    shards = plan_shards(model, plan_cut(model, [1, 1]), Path(sys.argv[2]))
    written = cut_model(model, shards)
print(len(written))
"""


DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
DEMO_SHARDS = {  # by shares; of the demo model as it is now, in FORMAT 1
    (1, 1): ["rank0of2-9dd62f81e705356e", "rank1of2-e80795fcc397cfeb"],
    (3, 2): ["rank0of2-aa2dbd05013327c7", "rank1of2-961747ab9f33ea2d"],
    (1, 2, 1): [
        "rank0of3-a446d48e831fba70",
        "rank1of3-0a7aada236ba8970",
        "rank2of3-57f53c88fe81195b",
    ],
}


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES["qwen3"], "Q8_0")
    return path


def _cut(path: Path, directory: Path, *, verify: bool = False) -> tuple[list[Shard], list[Shard]]:
    """All shards of a cut over two, and those that had to be written."""
    with open_gguf(path) as model:
        shards = plan_shards(model, plan_cut(model, [1, 1]), directory)
        return shards, cut_model(model, shards, verify=verify)


def test_a_shard_is_a_small_model_that_llama_cpp_runs(model_path: Path, tmp_path: Path) -> None:
    shards, _ = _cut(model_path, tmp_path / "shards")
    for shard in shards:
        logits = reference_logits(shard.path, [1, 2, 3], 2)
        assert logits.shape[1] < SHAPES["qwen3"].n_vocab
        assert np.isfinite(logits).all()


def test_finished_shards_are_used_again(model_path: Path, tmp_path: Path) -> None:
    """A second cut writes nothing, and says so."""
    shards, written = _cut(model_path, tmp_path / "shards")
    assert written == shards
    before = [shard.path.stat().st_mtime_ns for shard in shards]
    again, written = _cut(model_path, tmp_path / "shards", verify=True)
    assert written == []
    assert [shard.path.stat().st_mtime_ns for shard in again] == before


@pytest.mark.parametrize("shares", DEMO_SHARDS)
def test_the_name_is_that_of_earlier_versions(shares: tuple[int, ...]) -> None:
    """A shard that another dure has cut is found again; one that is written otherwise raises FORMAT."""
    with open_gguf(DEMO) as model:
        shards = plan_shards(model, plan_cut(model, shares), Path())
    assert [shard.name for shard in shards] == [f"dure-demo-{n}" for n in DEMO_SHARDS[shares]]


def test_the_name_follows_content_plan_and_rank(model_path: Path, tmp_path: Path) -> None:
    """A copy of the model elsewhere has the same shards; other weights or shares have others."""
    copy, other = tmp_path / "elsewhere" / "model.gguf", tmp_path / "other" / "model.gguf"
    for path in (copy, other):
        path.parent.mkdir()
    copy.write_bytes(model_path.read_bytes())
    write_random_model(other, SHAPES["qwen3"], "Q8_0", seed=1)

    def names(path: Path, shares: list[float]) -> list[str]:
        with open_gguf(path) as model:
            return [s.path.name for s in plan_shards(model, plan_cut(model, shares), tmp_path)]

    assert names(copy, [1, 1]) == names(model_path, [1, 1])
    all_names = names(model_path, [1, 1]) + names(model_path, [3, 1]) + names(other, [1, 1])
    assert len(set(all_names)) == 6


def test_a_flipped_bit_is_found_and_cut_again(model_path: Path, tmp_path: Path) -> None:
    shards, _ = _cut(model_path, tmp_path / "shards")
    whole = shards[1].path.read_bytes()
    broken = bytearray(whole)
    broken[-1000] ^= 1
    shards[1].path.write_bytes(broken)
    assert is_finished(shards[1])
    assert not is_finished(shards[1], verify=True)
    _, written = _cut(model_path, tmp_path / "shards", verify=True)
    assert [shard.rank for shard in written] == [1]
    assert shards[1].path.read_bytes() == whole


@pytest.mark.parametrize("manifest", ["", "{", "[]", '{"size_bytes": "x"}', '{"sha256": "y"}'])
def test_a_damaged_manifest_means_unfinished(
    manifest: str, model_path: Path, tmp_path: Path
) -> None:
    shards, _ = _cut(model_path, tmp_path / "shards")
    shards[0].manifest.write_text(manifest)
    assert not is_finished(shards[0])
    _, written = _cut(model_path, tmp_path / "shards")
    assert [shard.rank for shard in written] == [0]


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """About 1.5 GB, so that a cut takes a while and must stream."""
    shape = replace(
        SHAPES["qwen3"], n_layer=1, n_embd=2048, n_head=16, head_dim=128, n_ff=57_344, n_vocab=4096
    )
    path = tmp_path_factory.mktemp("large") / "model.gguf"
    write_random_model(path, shape, "F32")
    assert path.stat().st_size > 1_200_000_000
    yield path
    path.unlink()


@pytest.fixture
def large_shards(tmp_path: Path) -> Iterator[Path]:
    """Where shards of the large model may lie; nothing is left on the disk."""
    yield tmp_path
    for path in tmp_path.iterdir():
        path.unlink()


def test_a_cut_takes_little_memory_whatever_the_model(
    large_model: Path, large_shards: Path
) -> None:
    """Cutting 1.5 GB stays under 600 MB, and the progress adds up to all tensors' bytes."""
    script = CUT.replace(
        "written = cut_model(model, shards)",
        "told = []; written = cut_model(model, shards, progress=told.append)\n"
        "    assert sum(told) == sum(t.size_bytes for t in model.tensors.values())",
    )
    script += "from dure.engine.compute.memory import peak_bytes; print(peak_bytes())"
    done = subprocess.run(
        [sys.executable, "-c", script, large_model, large_shards],
        capture_output=True,
        text=True,
        check=True,
    )
    written, peak_bytes = done.stdout.split()
    assert written == "2"
    assert int(peak_bytes) < 600_000_000


def test_a_killed_cut_leaves_no_half_shard(large_model: Path, large_shards: Path) -> None:
    """Killed in the middle, nothing bears a shard's name; the next cut completes it."""
    process = subprocess.Popen([sys.executable, "-c", CUT, large_model, large_shards])
    while not any(part.stat().st_size > 1 << 20 for part in large_shards.glob("*.part")):
        assert process.poll() is None, "the cut ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert list(large_shards.glob("*.gguf")) == []
    shards, written = _cut(large_model, large_shards)
    assert written == shards
    assert all(is_finished(shard, verify=True) for shard in shards)
    assert list(large_shards.glob("*.part")) == []


def test_two_cuts_at_once_write_the_shards_once(model_path: Path, tmp_path: Path) -> None:
    """The second process waits for the first and finds everything done."""
    command = [sys.executable, "-c", CUT, str(model_path), str(tmp_path / "shards")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    counts = sorted(process.communicate()[0].strip() for process in processes)
    assert counts == ["0", "0", "2"]


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(
    large_model: Path, tmp_path: Path
) -> None:
    with open_gguf(large_model) as model:
        shards = plan_shards(model, plan_cut(model, [1, 1]), tmp_path)
        huge = [replace(shard, weights_bytes=1 << 60) for shard in shards]
        with pytest.raises(ResourceError, match=r"GB free, but the shards need .*make room"):
            cut_model(model, huge)
    assert list(tmp_path.glob("*.gguf*")) == []


def test_a_disk_that_fills_up_leaves_nothing(model_path: Path, tmp_path: Path) -> None:
    """A limit on file sizes stops the cut in the middle: one clear error, no file."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    done = subprocess.run(
        [sys.executable, "-c", CUT, model_path, tmp_path / "shards"],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "ResourceError: disk full" in done.stderr
    assert [p.name for p in (tmp_path / "shards").iterdir()] == [".lock"]


def test_a_directory_that_cannot_be_written_is_named(model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot write shards to .*file.shards"):
        _cut(model_path, tmp_path / "file" / "shards")


def test_a_manifest_says_size_and_checksum(model_path: Path, tmp_path: Path) -> None:
    shards, _ = _cut(model_path, tmp_path / "shards")
    facts = json.loads(shards[0].manifest.read_text())
    assert facts["size_bytes"] == shards[0].path.stat().st_size
    assert len(facts["sha256"]) == 64


def test_no_file_stays_open(model_path: Path, tmp_path: Path) -> None:
    process = psutil.Process(os.getpid())
    before = process.num_fds()
    for i in range(3):
        _cut(model_path, tmp_path / str(i))
    assert process.num_fds() == before
