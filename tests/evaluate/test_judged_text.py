"""The text that models are judged on, and how a user's file of text is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dure.chat.reading import TextTools
from dure.errors import ResourceError, UsageError
from dure.evaluate.judged_text import JudgedOn, Tools
from dure.evaluate.user_text import read_text
from dure.isolation import Isolation
from dure.model.vocabulary import Vocabulary

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"


def test_the_last_line_end_is_no_part_of_a_text(tmp_path: Path) -> None:
    """As llama.cpp's tools read it: one only, and every other character is the text's."""
    file = tmp_path / "text"
    file.write_bytes("\r\nHügel\r\n\n".encode())
    assert read_text(file, "--data") == "\r\nHügel\r\n"


def test_what_is_no_text_is_refused_by_its_option(tmp_path: Path) -> None:
    """Figures of something that only looked like text would mean nothing."""
    file = tmp_path / "text"
    with pytest.raises(ResourceError, match=r"--data .* cannot be read: No such file"):
        read_text(file, "--data")
    file.write_bytes(b"\x1f\x8b\xff")
    with pytest.raises(UsageError, match=r"--from-chats .* is no text: name a file in UTF-8"):
        read_text(file, "--from-chats")


def test_a_users_text_is_tokenized_by_what_reads_texts(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """No model is started for it, and its windows are the text's own tokens."""
    file = tmp_path / "text"
    file.write_text("The goat eats grass on the hill. " * 9 + "\n")
    asked: list[Path] = []

    @contextmanager
    def read(path: Path) -> Iterator[tuple[Vocabulary, Isolation[TextTools]]]:
        asked.append(path)
        with Isolation(TextTools(vocabulary, None)) as texts:
            yield vocabulary, texts

    def start(*_: object) -> None:
        raise AssertionError("a model was started")

    text = JudgedOn(DEMO, "demo", file, 16, 3)
    assert text.is_there
    windows = text.windows(Tools(start, read, start))  # type: ignore[arg-type]
    assert asked == [DEMO]
    assert (windows.n_windows, windows.n_ctx, windows.source) == (3, 16, "text")
    tokens = vocabulary.tokenize(file.read_text().removesuffix("\n"))[:48]
    assert windows.tokens[:, 1:].ravel().tolist() == [t for i, t in enumerate(tokens) if i % 16]
