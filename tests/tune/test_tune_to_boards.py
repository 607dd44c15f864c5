"""One command tunes, writes, quantizes: what it leaves runs over ranks and answers as torch says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import dure
from dure.cli.terminal.tune_result import ResultOptions
from dure.errors import UsageError
from dure.model.gguf import open_gguf
from dure.tune.result.card import read_card
from tests.support.dure_process import Dure
from tests.support.tuned_bases import PROMPT, write_base


def test_a_gguf_is_tuned_cut_and_runs_as_torch_says(tmp_path: Path) -> None:
    """A few steps change what two ranks compute, to what transformers computes with the same weights."""
    base, run = write_base(tmp_path, "qwen3"), tmp_path / "run"
    pairs = [{"prompt": f"bell {n}", "completion": f"village {n + 1}"} for n in range(6)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in pairs))
    program = Dure(tmp_path / "cache")
    done = program(
        *("tune", base, "--full", "--data", tmp_path / "pairs.jsonl", "--out", run, "--steps", 3),
        *("--lr", 0.02, "--eval-split", 0, "--dtype", "float32", "--threads", 1),
        *("--quantize", "q8_0"),
    )
    assert done.returncode == 0, done.stderr
    files = [Path(line) for line in done.stdout.splitlines() if line.endswith(".gguf")]
    assert [file.name for file in files] == ["run-F16.gguf", "run-Q8_0.gguf"]
    before = torch_logits(base.with_suffix(""))
    expected = torch_logits(run / "model")
    assert error(before, expected) > 0.1
    with dure.open(files[0], ranks=2, sync="f32", threads=1, ctx=128) as model:
        assert error(model.logits(PROMPT), expected) < 0.01
    for file in files:
        with open_gguf(file) as gguf:
            card = read_card(gguf)
            assert card is not None
            assert (card.base, card.steps, card.examples) == ("qwen3.gguf", 3, 6)
    shown = program("show", files[1], "--json")
    assert json.loads(shown.stdout)["tuning"]["data"][0]["name"] == "pairs.jsonl"
    assert "6 examples of pairs.jsonl" in program("show", files[1]).stdout


def torch_logits(folder: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        found = model(torch.tensor([PROMPT])).logits[0].numpy()
    return np.asarray(found)


def error(
    found: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    expected: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ResultOptions(quantize="q4_k_m", target_bpw=4), "give one of them"),
        (ResultOptions(quantize="q4_k_huge"), "q4_k_huge"),
        (ResultOptions(ranks=2), "add --serve"),
        (ResultOptions(beside=True, quantize="q4_0"), "an adapter is small already"),
        (ResultOptions(beside=True, serve=True), "is a folder"),
    ],
)
def test_what_cannot_be_made_is_refused_before_the_run(
    tmp_path: Path, options: ResultOptions, words: str
) -> None:
    """Hours of tuning do not end with a wrong option."""
    with pytest.raises(UsageError, match=words):
        options.check(tmp_path, learns_adapter=True)


def test_an_adapter_beside_needs_one(tmp_path: Path) -> None:
    """All weights have no adapter to be written."""
    with pytest.raises(UsageError, match="leave out --beside"):
        ResultOptions(beside=True).check(tmp_path, learns_adapter=False)
