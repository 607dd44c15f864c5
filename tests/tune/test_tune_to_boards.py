"""One command tunes, writes, quantizes: what it leaves runs over ranks and answers as torch says."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from openai import OpenAI
from transformers import AutoModelForCausalLM

import dure
from dure.cli.terminal.tune_result import ResultOptions
from dure.errors import UsageError
from dure.model.gguf import open_gguf
from dure.tune.result.card import read_card
from tests.support.dure_process import WAIT_S, Dure, error_line
from tests.support.needs_root import needs_root
from tests.support.tuned_bases import PROMPT, write_base


@dataclass(frozen=True)
class Tuned:
    """A model, the command that has tuned it, without what should become of it, and the run's folder."""

    base: Path
    command: tuple[object, ...]
    run: Path

    def stamps(self) -> dict[str, int]:
        """Return when each file was written."""
        return {path.name: path.stat().st_mtime_ns for path in self.run.glob("*.gguf")}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Dure:
    folder = tmp_path_factory.mktemp("program")
    dure = Dure(folder / "cache")
    dure.environment["DURE_RUNTIME"] = str(folder / "run")
    return dure


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, program: Dure) -> Tuned:
    """Tune a tiny model, and quantize it."""
    folder = tmp_path_factory.mktemp("tuned")
    base, run = write_base(folder, "qwen3"), folder / "run"
    pairs = [{"prompt": f"bell {n}", "completion": f"village {n + 1}"} for n in range(6)]
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in pairs))
    command = (
        *("tune", base, "--full", "--data", folder / "pairs.jsonl", "--out", run, "--steps", 3),
        *("--lr", 0.02, "--eval-split", 0, "--dtype", "float32", "--threads", 1),
    )
    done = program(*command, "--quantize", "q8_0")
    assert done.returncode == 0, done.stderr
    files = [Path(line).name for line in done.stdout.splitlines() if line.endswith(".gguf")]
    assert files == ["run-F16.gguf", "run-Q8_0.gguf"]
    steps = [line for line in done.stderr.splitlines() if " of 3: " in line and "step" not in line]
    assert [line.split()[3] for line in steps] == ["tuning", "writing", "quantizing"]
    return Tuned(base, command, run)


def test_a_gguf_is_tuned_cut_and_runs_as_torch_says(tuned: Tuned, program: Dure) -> None:
    """A few steps change what two ranks compute, to what transformers computes with the same weights."""
    files = [tuned.run / f"run-{kind}.gguf" for kind in ("F16", "Q8_0")]
    before = torch_logits(tuned.base.with_suffix(""))
    expected = torch_logits(tuned.run / "model")
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


def test_one_command_serves_and_what_is_there_is_not_made_again(
    tuned: Tuned, program: Dure, tmp_path: Path
) -> None:
    """Given again after a stop it serves at once: nothing is tuned, written or quantized."""
    before, told = tuned.stamps(), tmp_path / "told"
    options = ("--quantize", "q8_0", "--serve", "--ranks", 2, "--port", 0)
    with told.open("wb") as file, program.start(*tuned.command, *options, stderr=file) as process:
        try:
            url = address(process, told)
            with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
                answer = client.completions.create(
                    model="run-Q8_0",
                    prompt="bell 3",
                    max_tokens=4,
                    extra_body={"ignore_eos": True},
                )
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 4
            process.terminate()
            assert process.wait(WAIT_S) == 0, told.read_text()
        finally:
            process.kill()
    assert "step 1" not in told.read_text()
    assert tuned.stamps() == before
    assert program.left_behind() == []


def address(process: subprocess.Popen[bytes], told: Path) -> str:
    """Return where a server is, once it is ready."""
    end = time.monotonic() + WAIT_S
    while "the API is described" not in told.read_text():
        assert process.poll() is None, told.read_text()
        assert time.monotonic() < end, told.read_text()
        time.sleep(0.02)
    found = re.search(r"https?://\S+", told.read_text())
    assert found, told.read_text()
    return found[0]


def test_types_are_chosen_for_a_size_as_the_configuration_says(tuned: Tuned, program: Dure) -> None:
    """--target-bpw after the run: the file in F16 is there, and the smaller one is made of it."""
    before = tuned.stamps()
    chosen = {"DURE_QUANTIZE_EVEN": "true", "DURE_QUANTIZE_TYPES": "Q4_0,Q8_0"}
    chosen["DURE_PORT"] = "8123"  # of whatever serves, which this does not
    done = program(*tuned.command, "--target-bpw", 7, **chosen)
    assert done.returncode == 0, done.stderr
    assert "run-F16.gguf is there" in done.stderr
    assert {name: tuned.stamps()[name] for name in before} == before
    with open_gguf(tuned.run / "run-7bpw.gguf") as gguf:
        tensors = gguf.tensors.values()
        bits = 8 * sum(t.size_bytes for t in tensors) / sum(t.n_elements for t in tensors)
        assert 5 < bits <= 7
        assert {t.type.name for t in tensors} <= {"F32", "F16", "Q4_0", "Q8_0"}
        assert read_card(gguf)


def test_what_would_end_the_way_after_hours_is_told_before_the_run(
    tuned: Tuned, program: Dure, tmp_path: Path
) -> None:
    """A port that is taken, ranks that are too many, a mixture that needs what is not there."""
    base, data = tuned.base, tuned.run.parent / "pairs.jsonl"
    command = ("tune", base, "--data", data, "--out", tmp_path / "out")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = {
            f"port {port} is taken": ("--serve", "--port", port),
            "5 ranks are more than the 4 query heads": ("--serve", "--port", 0, "--ranks", 5),
            "the smallest types make it": ("--target-bpw", 0.5),
            "holds no cluster": ("--serve", "--port", 0, "--cluster"),
        }
        for words, options in told.items():
            done = program(*command, *options)
            assert words in error_line(done.stderr)
            assert done.returncode != 0
    assert not (tmp_path / "out").exists()


@needs_root
def test_a_disk_without_room_for_the_files_is_told_before_the_run(
    tuned: Tuned, program: Dure, tmp_path: Path
) -> None:
    disk, data = tmp_path / "disk", tuned.run.parent / "pairs.jsonl"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    try:
        done = program("tune", tuned.base, "--data", data, "--out", disk / "run", "--gguf")
    finally:
        subprocess.run(["umount", disk], check=True)
    assert re.search(r"run needs .*B, and .*B are free there: make room", error_line(done.stderr))


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
