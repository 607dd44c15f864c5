"""The process that reads a program's texts: `python -m dure.library.reader SOCKET MODEL`.

A tokenizer or a template that fails at a text ends this process, never the program's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dure.chat.reading import TextTools
from dure.isolation import keep_from
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary


def main() -> None:
    """Load the model's vocabulary and chat template, and wait for texts."""
    descriptor, path = sys.argv[1:]
    with open_gguf(Path(path)) as gguf:
        vocabulary = Vocabulary(gguf)
    keep_from(int(descriptor), TextTools.of(vocabulary))


if __name__ == "__main__":
    main()
