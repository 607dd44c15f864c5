"""Adapters in a program: loaded with a model or while it runs, and named by each answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dure
from tests.support.adapters import write_adapter
from tests.support.random_models import SHAPES, write_random_model

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
TEXT = "Once upon a time there was a barley farmer called Nari."
N = 16


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters of the demo model."""
    directory = tmp_path_factory.mktemp("adapters")
    return [
        write_adapter(DEMO, directory / f"{n}.gguf", seed=n, rank=4, strength=4) for n in (1, 2)
    ]


def told(model: dure.Model, lora: dict[int, float] | None = None) -> tuple[int, ...]:
    return model.generate(TEXT, temperature=0, max_tokens=N, lora=lora).tokens


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_adapter_is_loaded_while_the_ranks_run(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    """In the middle of a stream, which goes on as it began; then all is as with both from the start."""
    monkeypatch.setenv("DURE_CACHE", str(tmp_path))
    choices: list[dict[int, float] | None] = [None, {}, {1: 1.0}, {0: 1.0, 1: -0.5}]
    with dure.open(DEMO, ranks=ranks, threads=1, lora=[f"{files[0]}:0.5", f"{files[1]}:0"]) as both:
        expected = [told(both, lora) for lora in choices]
        scores = both.logprobs(TEXT, lora={1: 1.0})
        assert len(set(expected)) == len(choices)
    with dure.open(DEMO, ranks=ranks, threads=1, parallel=2, lora=[f"{files[0]}:0.5"]) as model:
        stream = model.generate(TEXT, stream=True, temperature=0, max_tokens=N)
        next(stream)
        assert model.load_adapter(files[1], scale=0) == 1
        assert stream.answer().tokens == expected[0]
        assert [told(model, lora) for lora in choices] == expected
        np.testing.assert_array_equal(model.logprobs(TEXT, lora={1: 1.0})[1:], scores[1:])


def test_what_does_not_fit_is_refused_and_the_model_goes_on(
    files: list[Path], tmp_path: Path
) -> None:
    """An adapter of another model, a number too many, a scale that is none, a file that is not there."""
    other = tmp_path / "other.gguf"
    write_random_model(other, SHAPES["llama"], "F32")
    wrong = write_adapter(other, tmp_path / "wrong.gguf")
    with pytest.raises(dure.ModelError, match="it was made for another model"):
        dure.open(DEMO, lora=[wrong])
    with pytest.raises(dure.UsageError, match="give a file, or a file and a scale"):
        dure.open(DEMO, lora=[f"{files[0]}:much"])
    with dure.open(DEMO, threads=1) as model:
        before = told(model)
        with pytest.raises(dure.ModelError, match="it was made for another model"):
            model.load_adapter(wrong)
        with pytest.raises(dure.ModelError):
            model.load_adapter(tmp_path / "none.gguf")
        with pytest.raises(dure.UsageError, match=r"lora: there is no adapter 0: 0 are loaded"):
            model.generate(TEXT, lora={0: 1.0})
        with pytest.raises(dure.UsageError, match="a scale of nan"):
            model.load_adapter(files[0], scale=float("nan"))
        assert told(model) == before
        assert model.load_adapter(files[0]) == 0
        assert told(model) != before
