"""`dure imatrix` as a user runs it: from text, chats or nothing, stopped and begun again, over ranks."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from dure.convert.importance import Importance, read_importance
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.evaluate.imatrix_progress import Begun, ProgressFile
from dure.evaluate.importance import gather_importance
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from tests.conftest import DEMO
from tests.support.dure_process import WAIT_S, Dure, as_json, error_line

TEXT = "\n".join(
    f"{i} goats stand on hill {i % 7}, and the farmer counts {i * i} stones." for i in range(4000)
)


@pytest.fixture
def dure(tmp_path: Path) -> Dure:
    return Dure(tmp_path / "cache")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def assert_same(one: Importance, other: Importance) -> None:
    assert one.squares.keys() == other.squares.keys()
    for name, squares in one.squares.items():
        np.testing.assert_array_equal(squares.sums, other.squares[name].sums, name)
        np.testing.assert_array_equal(squares.counts, other.squares[name].counts, name)


def test_a_text_is_read_in_chunks(dure: Dure, text: Path, tmp_path: Path) -> None:
    """The file names its text and its chunks, and has every product of every layer, of every token."""
    out = tmp_path / "m.gguf"
    done = dure("imatrix", DEMO, "--data", text, "--out", out, "--ctx", 64, "--chunks", 5, "--json")
    facts = as_json(done)
    importance = read_importance(out)
    assert (facts["chunks"], facts["tokens"], facts["tensors"]) == (5, 320, len(importance.squares))
    assert (importance.n_chunks, importance.chunk_size) == (5, 64)
    assert list(importance.datasets) == ["text.txt"]
    with open_gguf(DEMO) as gguf:
        matrices = {
            name for name, t in gguf.tensors.items() if len(t.shape) > 1 and name.startswith("blk.")
        }
    assert importance.squares.keys() == matrices
    assert all(squares.counts.tolist() == [320] for squares in importance.squares.values())
    assert sorted(path.name for path in tmp_path.glob("m.gguf*")) == ["m.gguf"]


def gathered(n_outputs: int) -> Importance:
    executor = LocalExecutor(DEMO, Limits(n_ctx=256, threads=1, n_batch=256, n_outputs=n_outputs))
    chunks = np.random.default_rng(0).integers(3, 1000, (2, 256)).astype(np.int32)
    try:
        with open_gguf(DEMO) as gguf:
            begun = Importance({}, ["random"], 0, 256)
            return gather_importance(executor, chunks, begun, gguf.tensors, save=lambda _: None)
    finally:
        executor.close()


def test_sums_are_the_same_however_wide_steps_are() -> None:
    """Every token of every layer is in them, the last one's too; only the order of adding differs."""
    narrow, wide = gathered(16), gathered(256)
    assert narrow.squares.keys() == wide.squares.keys()
    for name, squares in narrow.squares.items():
        np.testing.assert_array_equal(squares.counts, wide.squares[name].counts, name)
        apart = np.linalg.norm(squares.sums - wide.squares[name].sums)
        assert apart <= 1e-5 * np.linalg.norm(squares.sums), name


def test_what_was_killed_goes_on_where_it_stood(dure: Dure, text: Path, tmp_path: Path) -> None:
    """Killed at any moment it leaves no matrix; the same command then gives the same bytes as one run."""
    whole, parts = tmp_path / "whole.gguf", tmp_path / "parts.gguf"
    command = ("imatrix", DEMO, "--data", text, "--ctx", 16, "--chunks", 1500, "--json", "--out")
    progress = tmp_path / "parts.gguf.progress"
    process = dure.start(*command, parts)
    give_up = time.monotonic() + WAIT_S
    while not progress.exists():
        assert time.monotonic() < give_up
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(WAIT_S)
    assert not parts.exists()
    facts = as_json(dure(*command, parts))
    assert facts["chunks_done_before"] > 0
    assert as_json(dure(*command, whole))["chunks_done_before"] == 0
    assert parts.read_bytes() == whole.read_bytes()
    assert not progress.exists()


def test_progress_of_something_else_is_not_gone_on_with(
    dure: Dure, text: Path, tmp_path: Path
) -> None:
    """Other chunks are refused with the cure, which begins anew; so is a file that is there already."""
    out = tmp_path / "m.gguf"
    as_json(
        dure("imatrix", DEMO, "--data", text, "--out", out, "--ctx", 64, "--chunks", 8, "--json")
    )
    again = dure("imatrix", DEMO, "--data", text, "--out", out, "--ctx", 64, "--chunks", 8)
    assert "is there already: add --force to replace it" in error_line(again.stderr)
    ProgressFile(out, "another").save(Begun(read_importance(out)))
    out.unlink()
    other = dure("imatrix", DEMO, "--data", text, "--out", out, "--ctx", 64, "--chunks", 9)
    assert other.returncode == 2
    assert "another model, text, --ctx or --chunks: --force" in error_line(other.stderr)
    progress = tmp_path / "m.gguf.progress"
    progress.write_bytes(progress.read_bytes()[:100])
    damaged = dure("imatrix", DEMO, "--data", text, "--out", out, "--ctx", 64, "--chunks", 9)
    assert "--force begins anew" in error_line(damaged.stderr)
    forced = dure(
        *("imatrix", DEMO, "--data", text, "--out", out, "--ctx", 64, "--chunks", 9, "--json"),
        "--force",
    )
    assert as_json(forced)["chunks"] == read_importance(out).n_chunks == 9


def test_a_model_writes_its_own_text_the_same_again(dure: Dure, tmp_path: Path) -> None:
    """Without data the model writes; the same command gives the same sums, and the file says whose text."""
    found = []
    for name in ("a.gguf", "b.gguf"):
        out = tmp_path / name
        facts = as_json(dure("imatrix", DEMO, "--out", out, "--ctx", 64, "--chunks", 6, "--json"))
        assert facts["tokens"] == 6 * 64
        assert facts["datasets"] == ["text that dure-demo.gguf wrote"]
        found.append(read_importance(out))
    assert_same(*found)


def test_chats_are_written_as_the_template_says(dure: Dure, tmp_path: Path) -> None:
    """Chats in OpenAI's form become the tokens that the model's template makes; a bad line is named."""
    chats = tmp_path / "chats.jsonl"
    messages = [
        {"role": "user", "content": "Tell me about goats, and about the hills they live on."},
        {"role": "assistant", "content": "Goats like hills, and eat what they find there. " * 4},
    ]
    lines = [json.dumps({"messages": messages}), json.dumps(messages), ""]
    chats.write_text("\n".join(lines))
    out = tmp_path / "m.gguf"
    facts = as_json(
        dure("imatrix", DEMO, "--from-chats", chats, "--out", out, "--ctx", 16, "--json")
    )
    with open_gguf(DEMO) as gguf:
        plain = len(Vocabulary(gguf).tokenize(messages[0]["content"] + messages[1]["content"]))
    assert 2 * plain < facts["tokens"] + 16, "two chats, with their roles"
    chats.write_text("\n".join([*lines, "{"]))
    bad = dure("imatrix", DEMO, "--from-chats", chats, "--out", out, "--force")
    assert "chats.jsonl line 4 is no chat" in error_line(bad.stderr)


def test_too_little_text_is_told(dure: Dure, tmp_path: Path) -> None:
    """Less than a chunk, no text at all, and chunks of no use are refused by what was given."""
    few = tmp_path / "few.txt"
    few.write_text("A goat.")
    short = error_line(dure("imatrix", DEMO, "--data", few).stderr)
    assert "less than one chunk of 512" in short
    few.write_bytes(b"\xff\xfe\x00")
    assert "is no text" in error_line(dure("imatrix", DEMO, "--data", few).stderr)
    assert "cannot be read" in error_line(dure("imatrix", DEMO, "--data", tmp_path / "no").stderr)
    assert "--ctx 4 is too short" in error_line(dure("imatrix", DEMO, "--ctx", 4).stderr)
    nowhere = dure("imatrix", DEMO, "--out", tmp_path / "no" / "m.gguf")
    assert "there is no folder" in error_line(nowhere.stderr)
    assert "--chunks 0" in error_line(dure("imatrix", DEMO, "--chunks", 0).stderr)
