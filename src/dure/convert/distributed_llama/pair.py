"""A `.m` file and its `.t` file become one model to be written.

Knows which tokenizer belongs to a model, and the metadata of the sizes.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from dure.convert.distributed_llama.headers import MODEL_MAGIC, ModelHeader, read_model_header
from dure.convert.distributed_llama.tokenizer import check_fits, read_tokenizer
from dure.convert.distributed_llama.vocabulary import vocabulary_metadata
from dure.convert.distributed_llama.weights import tensors_of
from dure.convert.model import ConvertedModel, Metadata
from dure.errors import ModelError, UsageError
from dure.model.gguf import ValueKind, value_of

_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7}  # source: llama.cpp `llama_ftype`
_QUANTIZATION_VERSION = 2
_NAME = re.compile(r"(dllama_(model|tokenizer)_)?(?P<name>.*?)(_(q40|q80|f16|f32))?")


def is_model(path: Path) -> bool:
    """Return whether a file begins as Distributed Llama's models do."""
    if not path.is_file():  # opening a pipe would wait for its writer
        return False
    try:
        with path.open("rb") as file:
            return file.read(4) == struct.pack("<i", MODEL_MAGIC)
    except OSError:
        return False


def read_pair(model: Path, tokenizer: Path | None = None) -> ConvertedModel:
    """Return what a GGUF of these files holds. tokenizer: the `.t` beside the model, if it is None.

    Raises ModelError for a file that is damaged or of an unknown kind, UsageError if it is unclear which
    tokenizer belongs to the model.
    """
    try:
        header = read_model_header(model)
        tensors = tensors_of(model, header)  # its sizes are the file's, so no list grows beyond it
        tokens = read_tokenizer(tokenizer or tokenizer_beside(model))
        check_fits(tokens, header.vocabulary, model.name)
        metadata: Metadata = {
            **_sizes(header, name_of(model)),
            **vocabulary_metadata(tokens, header.vocabulary),
        }
        return ConvertedModel(metadata, tensors)
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read: {error.strerror}") from None


def tokenizer_beside(model: Path) -> Path:
    """Return the `.t` file of a model's folder: the one of its name, or the only one.

    Raises UsageError if there is none, or no way to choose.
    """
    found = sorted(path for path in model.parent.iterdir() if path.suffix == ".t")
    of_its_name = [path for path in found if name_of(path) == name_of(model)]
    for candidates in (of_its_name, found):
        if len(candidates) == 1:
            return candidates[0]
    if not found:
        raise UsageError(
            f"no tokenizer (.t) lies beside {model.name}", "name it with --tokenizer FILE"
        )
    names = ", ".join(path.name for path in found)
    raise UsageError(
        f"several tokenizers lie beside {model.name} ({names})", "name one with --tokenizer FILE"
    )


def name_of(path: Path) -> str:
    """Return what to call the model of a file: its name without what the converter adds to every name."""
    match = _NAME.fullmatch(path.stem)
    return match["name"] if match else path.stem


def _sizes(h: ModelHeader, name: str) -> Metadata:
    values: dict[str, int | float] = {
        "context_length": h.context,
        "embedding_length": h.embedding,
        "block_count": h.layers,
        "feed_forward_length": h.feed_forward,
        "attention.head_count": h.heads,
        "attention.head_count_kv": h.kv_heads,
        "attention.key_length": h.head_size,
        "attention.value_length": h.head_size,
        "attention.layer_norm_rms_epsilon": h.norm_epsilon,
        "rope.dimension_count": h.head_size,
        "rope.freq_base": h.rope_base,
        "vocab_size": h.vocabulary,
    }
    if h.experts:
        values |= {
            "expert_count": h.experts,
            "expert_used_count": h.experts_used,
            "expert_feed_forward_length": h.expert_feed_forward,
        }
    return {
        "general.architecture": h.architecture,
        "general.type": "model",
        "general.name": name,
        "general.file_type": value_of(ValueKind.UINT32, _FILE_TYPES[h.weight_type]),
        "general.quantization_version": value_of(ValueKind.UINT32, _QUANTIZATION_VERSION),
        **{f"{h.architecture}.{key}": value for key, value in values.items()},
    }
