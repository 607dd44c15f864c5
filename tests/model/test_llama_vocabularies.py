"""The vocabularies in llama.cpp's sources: each text beside one gives the tokens beside it.

They are not here: DURE_LLAMA_SOURCE names a tree of llama.cpp's sources, such as `vendor/llama.cpp` in the
source package of llama-cpp-python.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary

SOURCE = os.environ.get("DURE_LLAMA_SOURCE")
TEXTS = sorted(Path(SOURCE or "none").glob("models/ggml-vocab-*.gguf.inp"))
END = "\n__ggml_vocab_test__\n"  # of each text


@pytest.mark.skipif(not SOURCE, reason="DURE_LLAMA_SOURCE names no tree of llama.cpp's sources")
def test_the_tree_has_vocabularies() -> None:
    assert len(TEXTS) > 10


@pytest.mark.parametrize("texts", TEXTS, ids=lambda path: path.name.split(".")[0])
def test_every_text_has_the_tokens_beside_it(texts: Path) -> None:
    """Without the token that begins a text, and with the names of special tokens as mere text."""
    with open_gguf(texts.with_suffix("")) as model:
        vocabulary = Vocabulary(model)
    lines = texts.with_suffix(".out").read_text().splitlines()
    wanted = [[int(token) for token in line.split()] for line in lines]
    parts = texts.read_bytes().decode().removesuffix(END).split(END)
    try:
        found = [vocabulary.tokenize(part, add_bos=False) for part in parts]
    finally:
        vocabulary.close()
    assert len(wanted) == len(parts)
    assert {p: f for p, f, w in zip(parts, found, wanted, strict=True) if f != w} == {}
