"""Writes a model for load tests: a published shape, random weights, and a real vocabulary.

Knows how to give one GGUF the tokenizer of another.
Refuses to know shapes and weights (`shapes.py`), and who serves the file.

A server needs a vocabulary to turn text into tokens and back, and a tiny model is no load. The vocabulary
comes from a file that contains nothing else, such as
`models/ggml-vocab-qwen2.gguf` in llama.cpp's sources.

    python bench/serve_model.py --vocabulary llama.cpp/models/ggml-vocab-qwen2.gguf
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
from measure import BenchError, main, progress
from shapes import add_model_options, gguf_file, gguf_package, shape_of

ARCHITECTURE = "general.architecture"
TOKENIZER = "tokenizer."
VOCABULARY_VARIABLE = "DURE_VOCABULARY"
REVISION = 1


def serving_model(shape: str, vocabulary: Path, directory: Path, mix: str = "q4_0") -> Path:
    """Return the GGUF of the shape `shape` with the tokenizer of the GGUF `vocabulary`.

    It is written if missing. Raises BenchError if the vocabulary's size is not the shape's.
    """
    path = directory / f"{shape}-{mix}-{vocabulary.stem}-r{REVISION}.gguf"
    if path.exists():
        return path
    source = gguf_file(shape, directory, mix)
    tokenizer = gguf_package().GGUFReader(vocabulary)
    _check_size(tokenizer, vocabulary, shape)
    progress(f"writing {path}")
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        _merge(gguf_package().GGUFReader(source), tokenizer, unfinished)
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def vocabulary_file(option: Path | None) -> Path:
    """Return the file named by the option or by DURE_VOCABULARY. Raises BenchError without one."""
    named = option or os.environ.get(VOCABULARY_VARIABLE)
    if not named:
        raise BenchError(
            f"set {VOCABULARY_VARIABLE} to a GGUF with a vocabulary of the shape's size, such as "
            "models/ggml-vocab-qwen2.gguf of llama.cpp (see bench/README.md)"
        )
    path = Path(named)
    if not path.is_file():
        raise BenchError(f"{path} is not a file: name a GGUF that holds a vocabulary")
    return path


def _check_size(tokenizer: Any, vocabulary: Path, shape: str) -> None:
    field = tokenizer.get_field("tokenizer.ggml.tokens")
    if field is None:
        raise BenchError(f"{vocabulary} holds no vocabulary: it has no tokenizer.ggml.tokens")
    wanted, found = shape_of(shape).vocabulary, len(field.data)
    if found != wanted:
        raise BenchError(
            f"{vocabulary} has {found} tokens and {shape} has {wanted}: take another vocabulary"
        )


def _merge(model: Any, tokenizer: Any, path: Path) -> None:
    writer = gguf_package().GGUFWriter(path, model.get_field(ARCHITECTURE).contents())
    for name, field in model.fields.items():
        if name != ARCHITECTURE and not name.startswith(("GGUF.", TOKENIZER)):
            _copy_field(writer, name, field)
    for name, field in tokenizer.fields.items():
        if name.startswith(TOKENIZER):
            _copy_field(writer, name, field)
    for tensor in model.tensors:
        writer.add_tensor(tensor.name, np.asarray(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_field(writer: Any, name: str, field: Any) -> None:
    kind, *element = field.types
    writer.add_key_value(name, field.contents(), kind, element[-1] if element else None)


def run() -> int:
    """Write the file that the command line names, and print its path."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(options)
    options.add_argument("--vocabulary", type=Path, help=f"default: ${VOCABULARY_VARIABLE}")
    arguments = options.parse_args()
    print(serving_model(arguments.shape, vocabulary_file(arguments.vocabulary), arguments.dir))
    return 0


if __name__ == "__main__":
    main(run)
