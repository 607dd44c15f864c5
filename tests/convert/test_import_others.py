"""`dure import` of a Distributed Llama model, as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.dllama_pairs import tokenizer_of, write_dllama_model
from tests.support.dure_process import Dure, as_json, error_line

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
SENSELESS = 2


@pytest.fixture
def dure(tmp_path: Path) -> Dure:
    """The program, with a models directory of its own."""
    program = Dure(tmp_path / "cache")
    program.environment["DURE_MODELS"] = str(tmp_path / "models")
    return program


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """The demo model as a `.m` file, its tokenizer beside it."""
    model = tmp_path / "dllama_model_goat_f16.m"
    write_dllama_model(model, DEMO, "F16")
    (tmp_path / "dllama_tokenizer_goat.t").write_bytes(tokenizer_of(DEMO).file())
    return model


def test_a_pair_is_imported_under_its_name_and_runs(dure: Dure, pair: Path, tmp_path: Path) -> None:
    """The converter's additions to the name are left out; another tokenizer may be named."""
    facts = as_json(dure("import", pair, "--json"))
    assert facts["path"] == str(tmp_path / "models" / "goat-F16.gguf")
    assert facts["architecture"] == "qwen3"
    greedy = ("Once upon a time", "--max-tokens", 8, "--temp", 0)
    stories = [dure("run", model, *greedy) for model in ("goat-F16.gguf", DEMO)]
    assert stories[0].returncode == 0, stories[0].stderr
    assert stories[0].stdout == stories[1].stdout
    other = tmp_path / "other.t"
    (tmp_path / "dllama_tokenizer_goat.t").rename(other)
    (tmp_path / "third.t").touch()
    as_json(dure("import", pair, "--tokenizer", other, "--out", tmp_path / "b.gguf", "--json"))
    assert "several tokenizers" in error_line(dure("import", pair).stderr)
    for path in tmp_path.glob("*.t"):
        path.unlink()
    assert "name it with --tokenizer FILE" in error_line(dure("import", pair).stderr)


def test_options_that_mean_nothing_are_refused(dure: Dure, pair: Path) -> None:
    """The error names the option."""
    done = dure("import", pair, "--type", "q8_0")
    assert done.returncode == SENSELESS
    assert "--type means nothing" in error_line(done.stderr)
