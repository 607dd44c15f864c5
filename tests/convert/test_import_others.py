"""`dure import` of a Distributed Llama model, and of an adapter, as a user runs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dure.model.gguf import open_gguf
from tests.support.dllama_pairs import tokenizer_of, write_dllama_model
from tests.support.dure_process import Dure, as_json, error_line
from tests.support.peft_folders import factors, write_adapter_folder
from tests.support.random_models import SHAPES, write_random_model

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


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter of the demo model."""
    found = factors("model.layers.1.mlp.up_proj", 256, 768, 4)
    return write_adapter_folder(tmp_path / "my-lora", found)


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


def test_an_adapter_is_written_into_its_folder_and_a_merged_model_among_models(
    dure: Dure, adapter: Path, tmp_path: Path
) -> None:
    """The adapter is no model that `dure ls` would list; the merged model is one, and says what it is."""
    facts = as_json(dure("import", adapter, "--base", DEMO, "--json"))
    assert facts["path"] == str(adapter / "my-lora-F32.gguf")
    with open_gguf(Path(facts["path"])) as file:
        assert file.str("general.type") == "adapter"
        assert set(file.tensors) == {f"blk.1.ffn_up.weight.lora_{side}" for side in "ab"}
    facts = as_json(dure("import", adapter, "--base", DEMO, "--merge", "--json"))
    assert facts["path"] == str(tmp_path / "models" / "my-lora-F16.gguf")
    with open_gguf(Path(facts["path"])) as merged, open_gguf(DEMO) as demo:
        assert merged.str("general.name") == "dure-demo with my-lora"
        assert merged.tensors.keys() == demo.tensors.keys()


def test_a_base_may_be_of_any_source_and_what_is_quantized_again_is_told(
    dure: Dure, pair: Path, adapter: Path, tmp_path: Path
) -> None:
    """A `.m` file is a base, too; a quantized one costs accuracy, which is said."""
    as_json(
        dure("import", adapter, "--base", pair, "--merge", "--out", tmp_path / "m.gguf", "--json")
    )
    quantized = tmp_path / "dllama_model_goat_q80.m"
    source = tmp_path / "q8.gguf"
    shape = replace(SHAPES["qwen3"], n_layer=2, n_vocab=2048, tied=False)
    write_random_model(source, shape, "Q8_0", vocab=DEMO)
    write_dllama_model(quantized, source, "Q8_0")
    done = dure("import", adapter, "--base", quantized, "--merge", "--out", tmp_path / "q.gguf")
    assert done.returncode == 0, done.stderr
    assert "1 tensors are decoded, changed and quantized again (1 in Q8_0)" in done.stderr


def test_options_that_mean_nothing_are_refused(dure: Dure, pair: Path, adapter: Path) -> None:
    """Each error names the option, or the one that is missing."""
    for words, problem in (
        ([pair, "--type", "q8_0"], "--type means nothing"),
        ([pair, "--merge"], "--merge means nothing"),
        ([adapter], "name the model that it was trained on with --base"),
        ([adapter, "--base", DEMO, "--type", "f16"], "--type means nothing"),
        ([adapter, "--base", DEMO, "--tokenizer", pair], "--tokenizer means nothing"),
        ([adapter, "--base", "no-such-model"], "no-such-model"),
    ):
        done = dure("import", *words)
        assert done.returncode == SENSELESS
        assert problem in error_line(done.stderr)
