"""How text is divided is read from tokenizer.json itself, whatever the model is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dure.convert.model import write_model
from dure.convert.sources import Asked, source_of
from dure.errors import ModelError
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from tests.support.huggingface_folders import byte_level_tokenizer, write_llama

ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
ENDS = "[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
WORD = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
TAIL = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
BEFORE = "[^\\r\\n\\p{L}\\p{N}]?"

# As the models' own files have them: the steps, whether merges are ignored, and llama.cpp's name.
PUBLISHED: dict[str, tuple[list[str], bool, str]] = {
    "Llama 3": (
        [f"{ENGLISH}|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|\\p{{N}}{{1,3}}| ?{ENDS}"],
        True,
        "llama-bpe",
    ),
    "Qwen 2": (
        [f"{ENGLISH}|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|\\p{{N}}| ?{ENDS}"],
        False,
        "qwen2",
    ),
    "Qwen 3.5": (
        [
            f"{ENGLISH}|{BEFORE}[\\p{{L}}\\p{{M}}]+|\\p{{N}}| ?"
            "[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
        ],
        False,
        "qwen35",
    ),
    "gpt-oss": (
        [
            f"{BEFORE}{WORD}*{TAIL}+{ENGLISH}?|{BEFORE}{WORD}+{TAIL}*{ENGLISH}?|\\p{{N}}{{1,3}}| ?"
            "[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
        ],
        False,
        "granite-embed-multi-97m",
    ),
    "Mistral Nemo": (
        [
            f"{BEFORE}{WORD}*{TAIL}+|{BEFORE}{WORD}+{TAIL}*|\\p{{N}}| ?"
            "[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
        ],
        True,
        "tekken",
    ),
    "DeepSeek 3": (
        [
            "\\p{N}{1,3}",
            "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
            " ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        ],
        False,
        "deepseek-v3",
    ),
}


def tokenizer(steps: list[dict[str, Any]], *, ignore_merges: bool) -> dict[str, Any]:
    whole = byte_level_tokenizer()
    whole["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    whole["model"]["ignore_merges"] = ignore_merges
    return whole


def byte_step(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}


def split(pattern: str, behavior: str = "Isolated", *, invert: bool = False) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": behavior,
        "invert": invert,
    }


def name_of(folder: Path, values: dict[str, Any]) -> str:
    """Import a model with this tokenizer, have llama.cpp load it, and return the name in the file."""
    write_llama(folder, tokenizer=values)
    out = folder.with_suffix(".gguf")
    with source_of(folder).opened(folder, Asked()) as model:
        write_model(model, out)
    with open_gguf(out) as gguf:
        vocabulary = Vocabulary(gguf)
        assert vocabulary.tokenize("hello", add_bos=False)
        vocabulary.close()
        return gguf.str("tokenizer.ggml.pre")


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_patterns_are_known(tmp_path: Path, model: str) -> None:
    """Each gets the name under which llama.cpp divides text so, and llama.cpp knows the name."""
    patterns, ignores, name = PUBLISHED[model]
    steps = [*map(split, patterns), byte_step(use_regex=False)]
    assert name_of(tmp_path / "m", tokenizer(steps, ignore_merges=ignores)) == name


def test_other_ways_to_write_the_same(tmp_path: Path) -> None:
    """What is between the matches may be removed instead, and line ends may be written as they are."""
    pattern = PUBLISHED["Qwen 2"][0][0].replace("\\r", "\r").replace("\\n", "\n")
    steps = [split(pattern, "Removed", invert=True), byte_step(use_regex=False)]
    assert name_of(tmp_path / "m", tokenizer(steps, ignore_merges=False)) == "qwen2"


def test_rules_without_a_pattern(tmp_path: Path) -> None:
    """GPT-2's rules are built in, and may come after single digits."""
    gpt2, digits = byte_step(use_regex=True), {"type": "Digits", "individual_digits": True}
    assert name_of(tmp_path / "a", tokenizer([gpt2], ignore_merges=False)) == "gpt-2"
    assert name_of(tmp_path / "b", tokenizer([digits, gpt2], ignore_merges=False)) == "smollm"


def test_merges_that_are_ignored_make_a_difference(tmp_path: Path) -> None:
    """The same pattern has another name if whole words come before merges, or none.

    None is needed where merges make every token: then both give the same tokens.
    """
    llama3, qwen2 = (
        [split(PUBLISHED[one][0][0]), byte_step(use_regex=False)] for one in ("Llama 3", "Qwen 2")
    )
    assert name_of(tmp_path / "a", tokenizer(llama3, ignore_merges=False)) == "smaug-bpe"
    assert name_of(tmp_path / "b", tokenizer(qwen2, ignore_merges=True)) == "qwen2"
    unmerged = tokenizer(qwen2, ignore_merges=True)
    unmerged["model"]["vocab"]["hel"] = 270
    with pytest.raises(ModelError, match="and ignores merges"):
        name_of(tmp_path / "c", unmerged)


@pytest.mark.parametrize(
    "step",
    [
        split("\\p{N}", "MergedWithNext"),
        {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True},
        {"type": "Digits", "individual_digits": False},
        {"type": "Whitespace"},
    ],
)
def test_steps_that_llama_cpp_cannot_do_are_named(tmp_path: Path, step: dict[str, Any]) -> None:
    """A guess would give other tokens; the error shows the step."""
    steps = [step, byte_step(use_regex=False)]
    with pytest.raises(ModelError, match=str(step["type"])):
        name_of(tmp_path / "m", tokenizer(steps, ignore_merges=False))
