"""Fixtures that several packages' tests use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary

DEMO = Path(__file__).parents[1] / "models" / "dure-demo.gguf"


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    """The demo model's vocabulary."""
    with open_gguf(DEMO) as gguf:
        vocabulary = Vocabulary(gguf)
        yield vocabulary
        vocabulary.close()
