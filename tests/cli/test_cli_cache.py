"""`dure cache`: which shards are kept on this machine, and deleting those that nobody used."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.dure_process import Dure, error_line

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"


@pytest.fixture
def dure(tmp_path: Path) -> Dure:
    """With the two shards of the demo model in its cache."""
    dure = Dure(tmp_path / "cache")
    done = dure("run", DEMO, "Hello", "--ranks", 2, "-n", 1)
    assert done.returncode == 0, done.stderr
    return dure


def kept(dure: Dure) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dure("cache", "ls", "--json").stdout)
    return found


def test_shards_are_listed_with_size_and_age(dure: Dure, tmp_path: Path) -> None:
    files = {path.stem: path.stat().st_size for path in tmp_path.rglob("*.gguf")}
    assert {one["name"]: one["size_bytes"] for one in kept(dure)} == files
    assert {one["kind"] for one in kept(dure)} == {"shards"}
    assert len(files) == 2
    assert all(one["whole"] and one["node"] == "here" for one in kept(dure))
    assert all(time.time() - one["used"] < 600 for one in kept(dure))
    assert "dure-demo-rank0of2" in dure("cache", "ls").stdout


def test_what_was_not_used_for_days_goes_and_is_made_again(dure: Dure, tmp_path: Path) -> None:
    (old, _) = sorted(tmp_path.rglob("*.gguf"))
    os.utime(old, (time.time() - 8 * 86400,) * 2)
    assert "nothing was unused for 30 days" in dure("cache", "prune").stderr
    assert "1 shards deleted" in dure("cache", "prune", "--days", 7).stderr
    assert [one["name"] for one in kept(dure)] != [old.stem]
    assert not old.with_suffix(".json").exists()
    assert dure("run", DEMO, "Hello", "--ranks", 2, "-n", 1).returncode == 0
    assert len(kept(dure)) == 2
    assert len(json.loads(dure("cache", "prune", "--days", 0, "--json").stdout)) == 2
    assert kept(dure) == []
    assert "nothing is cached" in dure("cache", "ls").stderr


def test_days_below_none_make_no_sense(dure: Dure) -> None:
    assert "--days -1" in error_line(dure("cache", "prune", "--days", -1).stderr)
    assert len(kept(dure)) == 2


def test_damage_is_found_told_and_made_good(dure: Dure, tmp_path: Path) -> None:
    """One byte in the middle, as a failing card changes it: its time of change is what it was."""
    assert "2 of 2 shards are sound" in dure("cache", "check").stderr
    (damaged, _) = sorted(tmp_path.rglob("*.gguf"))
    right, times = damaged.read_bytes(), damaged.stat()
    middle = len(right) // 2
    damaged.write_bytes(right[:middle] + bytes([right[middle] ^ 1]) + right[middle + 1 :])
    os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))
    told = dure("cache", "check", "--json")
    assert told.returncode == 1
    states = {one["name"]: one["state"] for one in json.loads(told.stdout)}
    assert states[damaged.stem] == "damaged"
    assert f"here: {damaged.stem} is damaged" in told.stderr
    assert "1 of 2 shards are sound" in told.stderr
    assert dure("run", DEMO, "Hello", "--ranks", 2, "-n", 1).returncode == 0
    assert damaged.read_bytes() == right


def test_what_eval_and_quantize_and_tune_keep_is_listed_and_deleted_alike(tmp_path: Path) -> None:
    """By kind for a person, by file or folder in JSON; the lock and a running quantizer are left alone."""
    cache = tmp_path / "cache"
    dure, folder = Dure(cache), cache / "quantize" / "tensors"
    done = dure("quantize", DEMO, "--type", "Q4_0", "--no-verify", "--out", tmp_path / "small.gguf")
    assert done.returncode == 0, done.stderr
    text = tmp_path / "text"
    text.write_text("The goat eats grass on the hill. " * 20)
    done = dure("eval", DEMO, "--data", text, "--ctx", 32, "--chunks", 2, "--threads", 1)
    assert done.returncode == 0, done.stderr
    (cache / "quantize" / "table.json").write_text("{}")
    (cache / "tune").mkdir()
    (cache / "tune" / "times.json").write_text("[1.5, 0.5]")
    (left, running) = (cache / "quantize" / f"swaps-{name}" for name in ("left", "running"))
    for one in (left, running):
        one.mkdir()
        (one / "part.gguf").write_bytes(b"weights")
    tensors = {f"quantize/tensors/{one.name}": one.stat().st_size for one in folder.iterdir()}
    lock = os.open(running, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    sizes = {one["name"]: one["size_bytes"] for one in kept(dure)}
    assert len(tensors) > 5
    assert tensors.items() < sizes.items()
    assert sizes["quantize/swaps-left"] == 7
    assert sizes["quantize/table.json"] == 2
    assert sizes["tune/times.json"] == 10
    assert len([name for name in sizes if name.startswith("evaluations/")]) == 1
    assert len(sizes) == len(tensors) + 4
    shown = dure("cache", "ls").stdout
    assert f"here     {len(tensors)} quantized tensors" in shown
    assert "1 results of judging" in shown
    assert "1 measured times of tuning" in shown
    old = next(folder.iterdir())
    os.utime(old, (time.time() - 31 * 86400,) * 2)
    assert "1 quantized tensors deleted" in dure("cache", "prune").stderr
    assert not old.exists()
    assert dure("cache", "prune", "--days", 0).returncode == 0
    assert kept(dure) == []
    assert (running / "part.gguf").exists()
    os.close(lock)
