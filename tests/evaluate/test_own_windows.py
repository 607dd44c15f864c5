"""A model writes the text that it is judged on: once, the same whatever runs beside it, and resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dure.chat.reading import TextTools
from dure.deploy.options import RunOptions
from dure.deploy.start import start_model
from dure.evaluate.own_windows import OwnWindows
from dure.evaluate.windows import TextWindows
from dure.isolation import Isolation
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
N_CTX = 64


def written(vocabulary: Vocabulary, n_sequences: int, n_windows: int, kept: Path) -> TextWindows:
    own = OwnWindows("demo", n_windows, N_CTX, kept)
    assert own.windows("demo") is None
    options = RunOptions(threads=1, ctx=own.length(512), n_sequences=n_sequences)
    with Isolation(TextTools.of(vocabulary)) as texts, open_gguf(DEMO) as gguf:
        executor = start_model(gguf, options).executor
        own.write(executor, vocabulary, texts)
        executor.close()
    windows = own.windows("demo")
    assert windows is not None
    return windows


def test_a_text_is_written_once_and_the_same_each_time(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """Windows are full, and answer a request; alone, at once and resumed they are the same."""
    at_once = written(vocabulary, 4, 5, tmp_path / "at once")
    assert at_once.tokens.shape == (5, N_CTX)
    assert at_once.is_own
    first = b"".join(map(vocabulary.piece, at_once.tokens[0].tolist()))
    assert b"Explain how the tides work." in first
    assert len({tuple(row) for row in at_once.tokens.tolist()}) == 5
    fewer = written(vocabulary, 1, 2, tmp_path / "alone")
    np.testing.assert_array_equal(fewer.tokens, at_once.tokens[:2])
    resumed = written(vocabulary, 4, 5, tmp_path / "alone")
    assert resumed.sha256 == at_once.sha256
