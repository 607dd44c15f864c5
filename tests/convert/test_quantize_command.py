"""`dure quantize` as a user runs it: a file of the size, speed or mixture that was asked for, or none."""

from __future__ import annotations

import json
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest

from dure.convert.importance import write_importance
from dure.model.gguf import open_gguf
from tests.support.dure_process import Dure, error_line
from tests.support.quantizing import MIXTURE, SMALL, importance_for, small_model, tensor_bytes
from tests.support.random_models import SHAPES, write_random_model

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
FEW = ("--even", "--types", "Q2_K,Q4_0,Q4_K,Q6_K,Q8_0")


@pytest.fixture
def dure(tmp_path: Path) -> Dure:
    return Dure(tmp_path / "cache")


def quantized(dure: Dure, *arguments: object) -> dict[str, Any]:
    done = dure("quantize", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_model_gets_a_size_and_runs(dure: Dure, tmp_path: Path) -> None:
    """The demo at 5 bits, smaller than asked and near it; the types told are those in the file."""
    out = tmp_path / "small.gguf"
    facts = quantized(dure, DEMO, "--target-bpw", "5", "--out", out, *FEW)
    assert 4.5 < facts["bits_per_weight"] <= 5
    assert facts["measured_tokens_per_s"] > 0
    assert facts["types"] == {name: kind for name, (kind, _) in tensor_bytes(out).items()}
    fields = gguf.GGUFReader(out).fields
    assert fields["dure.quantize.target"].contents() == "5bpw"
    assert fields["general.quantization_version"].contents() == 2
    answer = dure("run", out, "Once upon a time", "-n", "4")
    assert answer.returncode == 0, answer.stderr


def test_a_size_in_bytes_is_that_of_the_file(dure: Dure, tmp_path: Path) -> None:
    out = tmp_path / "small.gguf"
    arguments = (DEMO, "--target-size", "2.5MB", "--out", out, *FEW)
    assert quantized(dure, *arguments, "--no-verify")["path"] == str(out)
    assert 2_200_000 < out.stat().st_size <= 2_500_000


def test_a_mixture_with_importances_says_so_in_the_file(dure: Dure, tmp_path: Path) -> None:
    """The keys are those of llama.cpp's quantizer; a stack of experts has one type."""
    source, out, matrix = (tmp_path / f"{name}.gguf" for name in ("source", "out", "matrix"))
    small_model(source, MIXTURE)
    with open_gguf(source) as model:
        write_importance(matrix, importance_for(model))
    options = ("--imatrix", matrix, "--out", out, "--no-verify")
    facts = quantized(dure, source, "--type", "q3_k_m", *options)
    assert facts["types"]["blk.0.ffn_gate_exps.weight"] == "Q3_K"
    fields = gguf.GGUFReader(out).fields
    assert fields["quantize.imatrix.file"].contents() == "matrix.gguf"
    assert fields["quantize.imatrix.entries_count"].contents() > 0
    assert fields["general.file_type"].contents() == 12


def test_another_target_measures_nothing_again(dure: Dure, tmp_path: Path) -> None:
    """The table of errors is the same file after it, to the byte."""
    quantized(dure, DEMO, "--target-bpw", "5", "--dry-run", *FEW)
    (table,) = (tmp_path / "cache" / "quantize").glob("*.json")
    before = table.read_bytes()
    quantized(dure, DEMO, "--target-bpw", "6", "--dry-run", *FEW)
    assert table.read_bytes() == before


def test_a_dry_run_and_a_frontier_write_nothing(dure: Dure, tmp_path: Path) -> None:
    done = dure("quantize", DEMO, "--target-bpw", "5", "--dry-run", *FEW, "--json")
    assert json.loads(done.stdout)["path"] is None
    assert re.search(r"^about \d+ s: errors of \d+ tensors \d+ s$", done.stderr, re.M)
    points = quantized(dure, DEMO, "--frontier", "size", *FEW)["frontier"]
    errors = [point["error"] for point in points]
    assert errors == sorted(errors, reverse=True)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_what_was_killed_goes_on_and_ends_the_same(dure: Dure, tmp_path: Path) -> None:
    """Killed while it writes: no file, some tensors kept; the next run uses them, byte for byte."""
    source, whole, out = (tmp_path / f"{name}.gguf" for name in ("source", "whole", "out"))
    small_model(source, SHAPES["llama"])
    options = ("--type", "Q4_K_M", "--no-verify", "--threads", "1")
    process = dure.start("quantize", source, *options, "--out", out)
    kept = tmp_path / "cache" / "quantize" / "tensors"
    while process.poll() is None and not (kept.is_dir() and list(kept.glob("*.tensor"))):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    quantized(Dure(tmp_path / "other cache"), source, *options, "--out", whole)
    quantized(dure, source, *options, "--out", out, "--force")
    assert out.read_bytes() == whole.read_bytes()


def test_what_was_killed_between_two_swaps_goes_on(dure: Dure, tmp_path: Path) -> None:
    """What was judged is not judged again, no model is left in the cache, and the file is the same."""
    source, whole, out = (tmp_path / f"{name}.gguf" for name in ("source", "whole", "out"))
    write_random_model(source, replace(SMALL, n_vocab=2048, n_layer=1), "F16", vocab=DEMO)
    text = tmp_path / "text"
    text.write_text("The goat of the village went to the mill, and came back with flour. " * 80)
    options = ("--target-bpw", "5", "--types", "Q4_0,Q8_0", "--data", text, "--time", "1h")
    process = dure.start("quantize", source, *options, "--out", out)
    cache = tmp_path / "cache" / "quantize"
    while process.poll() is None and not (cache.is_dir() and list(cache.glob("*.weights.json"))):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (weights,) = cache.glob("*.weights.json")
    judged = json.loads(weights.read_bytes())
    assert not out.exists()
    quantized(dure, source, *options, "--no-verify", "--out", out)
    after = json.loads(weights.read_bytes())
    assert len(after) > len(judged) > 0
    assert after | judged == after
    assert not list(cache.glob("swaps-*"))
    quantized(Dure(tmp_path / "other cache"), source, *options, "--no-verify", "--out", whole)
    assert out.read_bytes() == whole.read_bytes()


def test_a_file_that_is_there_is_not_replaced(dure: Dure, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_text("mine")
    done = dure("quantize", DEMO, "--type", "Q4_0", "--out", out)
    assert done.returncode == 2
    assert "is there already: add --force to replace it" in error_line(done.stderr)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "no target: give one of --type"),
        (("--type", "Q4_0", "--target-bpw", "4"), "exclude each other"),
        (("--type", "Q9_X"), "--type Q9_X: use one of"),
        (("--target-size", "ten"), "--target-size ten: give a size as in 10GB"),
        (("--target-speed", "0tok/s"), "--target-speed 0tok/s: give a speed as in 9tok/s"),
        (("--target-bpw", "1", "--types", "Q8_0"), "the smallest types make it"),
        (("--target-bpw", "4", "--types", "Q9"), "tensor type 'Q9' is unknown"),
    ],
)
def test_what_makes_no_sense_is_told(dure: Dure, arguments: tuple[str, ...], text: str) -> None:
    done = dure("quantize", DEMO, *arguments, "--dry-run", "--even")
    assert done.returncode in {1, 2}
    assert text in done.stderr


def test_a_text_that_is_too_short_is_told_with_what_helps(dure: Dure, tmp_path: Path) -> None:
    """Windows have one size here, so none is proposed."""
    text = tmp_path / "text"
    text.write_text("The goat of the village went to the mill. " * 20)
    done = dure("quantize", DEMO, "--target-bpw", "5", "--data", text, "--out", tmp_path / "o.gguf")
    assert done.returncode == 2
    assert re.search(r"text has \d+ tokens: give 1024 or more\n$", done.stderr)


def test_an_importance_matrix_of_another_model_is_refused(dure: Dure, tmp_path: Path) -> None:
    """Before anything is written; the tensor is named."""
    source, matrix, out = (tmp_path / f"{name}.gguf" for name in ("source", "matrix", "out"))
    small_model(source, SHAPES["qwen2"])
    with open_gguf(source) as model:
        write_importance(matrix, importance_for(model))
    done = dure("quantize", DEMO, "--type", "Q4_0", "--imatrix", matrix, "--out", out)
    assert done.returncode == 1
    assert "the importance matrix has" in done.stderr
    assert not out.exists()


def test_what_was_lost_is_told_beside_what_was_expected(dure: Dure, tmp_path: Path) -> None:
    """On a text of the user's: the divergence, the expected one, and the agreement with its margin."""
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a village by a river. " * 100)
    out = tmp_path / "small.gguf"
    few = ("--types", "Q4_0,Q8_0", "--data", text, "--time", "1s")
    done = dure("quantize", DEMO, "--target-bpw", "6", "--out", out, *few)
    assert done.returncode == 0, done.stderr
    told = r"KL divergence 0\.\d+ \(0\.\d+ to 0\.\d+\), 0\.\d+ expected; agrees with the original on \d+ of"
    assert re.search(told, done.stdout), done.stdout
    again = quantized(dure, DEMO, "--target-bpw", "6", "--out", out, "--force", *few)
    found = again["agreement"]
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    assert again["kl_divergence"]["mean"] > 0
