"""What tuning leaves becomes a file that computes the same, and says what it was made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dure.convert.model import write_model
from dure.errors import UsageError
from dure.model.ggml import type_named
from dure.model.gguf import GgufFile, Value, ValueKind, open_gguf
from dure.tune.base import load_base
from dure.tune.result.card import TuneCard, card_of_run, read_card
from dure.tune.result.writing import ResultForm, opened_result
from tests.support.exact_logits import logits_of
from tests.support.tuned_bases import BASES, PROMPT

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"  # peft 0.21 asks transformers 5.23 for it
)
F32 = type_named("F32")
CARD = TuneCard("tiny", "0123", "full", (), 0, 3, 3, 1.5, None, {}, "0")


def written(
    result: Path, base: Path | None, out: Path, wanted: ResultForm, card: TuneCard = CARD
) -> Path:
    with opened_result(result, base, card, wanted) as model:
        write_model(model, out)
    return out


def is_float(value: Value) -> bool:
    return value.item_kind in (ValueKind.FLOAT32, ValueKind.FLOAT64)


def tensors_of(gguf: GgufFile) -> dict[str, bytes]:
    return {name: bytes(gguf.read(one, 0, one.size_bytes)) for name, one in gguf.tensors.items()}


@pytest.mark.parametrize("name", BASES)
def test_a_round_trip_changes_nothing(
    base: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """A GGUF that goes to torch, to a folder, and back has the same weights and the same vocabulary.

    Gemma's norms lose the last bits to the 1 that they are stored with.
    """
    loaded = load_base(base(name))
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.tokenizer.save_pretrained(tmp_path / "model")
    out = written(tmp_path / "model", base(name), tmp_path / "out.gguf", ResultForm(F32))
    with open_gguf(base(name)) as before, open_gguf(out) as after:
        theirs, ours = tensors_of(before), tensors_of(after)
        assert theirs.keys() == ours.keys()
        for key, data in theirs.items():
            numbers = np.frombuffer(data, np.float32), np.frombuffer(ours[key], np.float32)
            np.testing.assert_allclose(*numbers, rtol=0, atol=2e-7)
        for key, value in before.metadata.items():
            if not key.startswith("general."):
                assert after.metadata[key].kind == value.kind
                found = after.metadata[key].value
                same = pytest.approx(value.value, rel=1e-6) if is_float(value) else value.value
                assert found == same, key
        assert read_card(after) == CARD


def adapted(path: Path, out: Path) -> tuple[Path, np.ndarray[Any, Any]]:
    """Write an adapter of a base; return it, and the logits that torch computes with it."""
    import peft

    torch.manual_seed(9)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
    model = peft.get_peft_model(load_base(path).model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
        logits = model(torch.tensor([PROMPT])).logits[0].numpy()
    model.save_pretrained(out)
    return out, logits


def error(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_an_adapter_beside_or_within_its_base_computes_what_torch_does(
    base: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """The base is a GGUF, and the adapter was trained on its decoded weights."""
    path = base(name)
    adapter, expected = adapted(path, tmp_path / "adapter")
    merged = written(adapter, path, tmp_path / "merged.gguf", ResultForm(F32))
    beside = written(adapter, path, tmp_path / "beside.gguf", ResultForm(merge=False))
    assert error(logits_of(path, PROMPT), expected) > 1e-2
    assert error(logits_of(merged, PROMPT), expected) < 1e-3
    assert error(logits_of(path, PROMPT, beside), expected) < 1e-3
    with open_gguf(beside) as gguf:
        assert gguf.str("general.type") == "adapter"
        assert read_card(gguf) == CARD


def test_a_merge_decodes_a_quantized_base(base: Callable[[str], Path], tmp_path: Path) -> None:
    """The adapter's change is not rounded to the base's blocks: quantizing comes after, and once."""
    from dure.convert.sources import Asked, source_of

    folder, small = base("qwen3").with_suffix(""), tmp_path / "small.gguf"
    with source_of(folder).opened(folder, Asked(type_named("Q8_0"))) as model:
        write_model(model, small)
    adapter, expected = adapted(small, tmp_path / "adapter")
    merged = written(adapter, small, tmp_path / "merged.gguf", ResultForm(F32))
    assert error(logits_of(merged, PROMPT), expected) < 1e-3
    with open_gguf(merged) as gguf:
        assert {one.type.name for one in gguf.tensors.values()} == {"F32"}


def test_an_adapter_without_a_base_is_refused(tmp_path: Path) -> None:
    """The error says what is missing."""
    (tmp_path / "adapter_config.json").write_text("{}")
    with (
        pytest.raises(UsageError, match="its base is not known"),
        opened_result(tmp_path, None, CARD),
    ):
        pass


def test_a_card_says_what_a_run_was_made_of(tmp_path: Path) -> None:
    """Base, files with their hashes, steps and losses are those of the run's record."""
    data = tmp_path / "examples.jsonl"
    data.write_text('{"text": "a"}\n')
    settings = {
        "BASE": "/models/goat.gguf",
        "--data": [str(data), "stories:write"],
        "--lora, --full or --from-scratch": "lora",
        "--rank": 8,
        "the content of BASE": "abcd",
    }
    result = {"path": "x", "step": 20, "steps": 30, "loss": 0.5, "eval_loss": 0.75}
    facts = {"dure": "9", "settings": settings, "data": {"examples": 7}}
    with pytest.raises(UsageError, match="no result"):
        card_of_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({**facts, "result": result}))
    card = card_of_run(tmp_path)
    assert (card.base, card.base_fingerprint, card.method) == ("goat.gguf", "abcd", "lora")
    assert [file.name for file in card.data] == ["examples.jsonl", "stories:write"]
    assert card.data[0].sha256 == hashlib.sha256(data.read_bytes()).hexdigest()
    assert (card.examples, card.step, card.steps, card.eval_loss) == (7, 20, 30, 0.75)
    assert card.settings["--rank"] == 8
    assert card.metadata()["general.base_model.0.name"] == "goat.gguf"
    assert "7 examples of examples.jsonl" in str(card.metadata()["general.description"])
