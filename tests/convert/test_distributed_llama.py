"""A pair of Distributed Llama's files becomes a GGUF, and nothing of it is lost."""

from __future__ import annotations

import math
import os
import random
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

import dure
from dure.convert.distributed_llama import is_model, read_pair, tokenizer_beside
from dure.convert.model import write_model
from dure.errors import DureError, ModelError, UsageError
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from tests.support.dllama_pairs import (
    MODEL_MAGIC,
    DllamaTokenizer,
    dequantized,
    header,
    tokenizer_of,
    write_dllama_model,
)
from tests.support.peak_memory import peak_import_bytes
from tests.support.random_models import SHAPES, Shape, reference_logits, write_random_model

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
PLAIN = {"qkv_bias": False, "rope_factors": False, "n_layer": 2, "n_vocab": 2048, "tied": False}
MODELS: dict[str, Shape] = {
    name: replace(SHAPES[name], **PLAIN)  # type: ignore[arg-type]  # each value is of its field's type
    for name in ("llama", "qwen3", "qwen3moe")
}
FEED_FORWARD = 3  # the header's key
BYTES = [bytes([byte]) for byte in range(256)]


def imported(model: Path, tokenizer: Path | None = None) -> Path:
    path = model.with_suffix(".imported.gguf")
    write_model(read_pair(model, tokenizer), path)
    return path


def write_pair(
    folder: Path, architecture: str, weight_type: str, more: dict[int, int] | None = None
) -> tuple[Path, Path]:
    """Write a random model as a GGUF, and as a pair. Returns the GGUF and the `.m` file."""
    source, model = folder / "source.gguf", folder / f"dllama_model_tiny_{weight_type}.m"
    write_random_model(source, MODELS[architecture], weight_type, vocab=DEMO)
    write_dllama_model(model, source, weight_type, more)
    (folder / "dllama_tokenizer_tiny.t").write_bytes(tokenizer_of(DEMO).file())
    return source, model


@pytest.mark.parametrize("weight_type", ["F32", "Q4_0", "Q8_0"])
@pytest.mark.parametrize("architecture", MODELS)
def test_every_weight_is_kept_to_the_bit_and_the_model_computes_the_same(
    tmp_path: Path, architecture: str, weight_type: str
) -> None:
    """Matrices have the bytes of the source, the embedding its numbers; the logits are equal."""
    source, model = write_pair(tmp_path, architecture, weight_type)
    path = imported(model)
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    after = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        expected = before[name]
        assert list(tensor.shape) == list(expected.shape)
        if name == "token_embd.weight":
            numbers = dequantized(expected.data, expected.tensor_type)
            assert np.array_equal(dequantized(tensor.data, tensor.tensor_type), numbers)
        else:
            assert tensor.tensor_type == expected.tensor_type
            assert np.array_equal(tensor.data, expected.data), name
    tokens = [1, 500, 2, 900, 44]
    assert np.array_equal(reference_logits(path, tokens, 4), reference_logits(source, tokens, 4))


def test_an_embedding_that_was_16_bits_wide_is_so_again(tmp_path: Path) -> None:
    """Its numbers are the same in BF16; one that has more bits stays in F32."""
    _, model = write_pair(tmp_path, "qwen3", "Q8_0")
    data = bytearray(model.read_bytes())
    n_numbers, start = MODELS["qwen3"].n_vocab * MODELS["qwen3"].n_embd, len(data)
    start = struct.unpack_from("<i", data, 4)[0]
    numbers = np.frombuffer(data, "<u4", n_numbers, start) & 0xFFFF0000
    data[start : start + 4 * n_numbers] = numbers.tobytes()
    model.write_bytes(data)
    tensor = gguf.GGUFReader(imported(model)).get_tensor(0)
    assert tensor.tensor_type.name == "BF16"
    assert np.array_equal(dequantized(tensor.data, tensor.tensor_type).view("<u4").ravel(), numbers)
    data[start] = 1
    model.write_bytes(data)
    assert gguf.GGUFReader(imported(model)).get_tensor(0).tensor_type.name == "F32"


def test_llama_31s_positions_are_stretched_as_before(tmp_path: Path) -> None:
    """A frequency divided by its factor is what Distributed Llama computes from the header."""
    scaling = {14: 8, 15: 1, 16: 4, 17: 8192, 18: 2, 12: 500_000}
    _, model = write_pair(tmp_path, "llama", "Q4_0", scaling)
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(imported(model)).tensors}
    size = MODELS["llama"].head_dim
    for pair, factor in enumerate(tensors["rope_freqs.weight"]):
        frequency = 1 / 500_000 ** (2 * pair / size)
        wave = 2 * math.pi / frequency
        if wave < 8192 / 4:
            expected = frequency
        elif wave > 8192 / 1:
            expected = frequency / 8
        else:
            smooth = (8192 / wave - 1) / (4 - 1)
            expected = (1 - smooth) * frequency / 8 + smooth * frequency
        assert frequency / factor == pytest.approx(expected, rel=1e-6)


@pytest.fixture(scope="module")
def demo_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model as a `.m` file, its tokenizer beside it."""
    folder = tmp_path_factory.mktemp("demo")
    model = folder / "dllama_model_demo_f16.m"
    write_dllama_model(model, DEMO, "F16")
    (folder / "dllama_tokenizer_demo.t").write_bytes(tokenizer_of(DEMO).file())
    return model


def test_dure_tells_the_same_story(demo_pair: Path) -> None:
    """The demo model and what is imported from its pair write the same greedy text, and chat alike."""
    answers = []
    for path in (DEMO, imported(demo_pair)):
        with dure.open(path) as model:
            text = model.generate("Once upon a time", max_tokens=40, temperature=0).text
            answers.append((text, model.chat("Who?", max_tokens=20, temperature=0).text))
    assert answers[0] == answers[1]


def texts() -> Iterator[str]:
    """Yield words, blanks, code, and letters of many scripts."""
    chance = random.Random(19)
    scripts = [(0x20, 0x7E), (0xC0, 0x24F), (0x391, 0x3C9), (0x410, 0x44F), (0x5D0, 0x5EA)]
    scripts += [(0x905, 0x939), (0xE01, 0xE30), (0x3041, 0x30FF), (0x4E00, 0x9FFF)]
    scripts += [(0xAC00, 0xD7A3), (0x1F300, 0x1F64F)]
    words = ["the", "goat's", "Once", "upon", "said:", '"Who?"', "3", "2024", "x=1;", "\n\n", "\t"]
    for _ in range(400):
        first, last = chance.choice(scripts)
        letters = "".join(chr(chance.randint(first, last)) for _ in range(chance.randint(1, 24)))
        yield letters
        yield chance.choice(["", " ", "   "]).join(chance.choices([*words, letters], k=8))
    yield "<|im_start|>user\nHello<|im_end|>\n<think>  </think>"


def test_texts_have_the_tokens_that_distributed_llamas_rules_give(demo_pair: Path) -> None:
    """No text of many scripts, blanks, code and special tokens is read otherwise."""
    rules = tokenizer_of(DEMO)
    with open_gguf(imported(demo_pair)) as file:
        vocabulary = Vocabulary(file)
    try:
        for text in texts():
            assert vocabulary.tokenize(text, special=True) == rules.encode(text), text
        assert vocabulary.is_end(rules.ends[0])
        assert vocabulary.chat_template() == rules.template
        assert vocabulary.piece(2035) == b"<think>"  # shown in an answer
        assert vocabulary.piece(2033) == b""  # <|im_start|> is not
    finally:
        vocabulary.close()


@pytest.mark.parametrize("add_begin", [False, True])
def test_scores_decide_which_pair_is_joined_first(
    tmp_path: Path, demo_pair: Path, *, add_begin: bool
) -> None:
    """Their order counts, not that of the ids; any two tokens may form one; the text begins as asked."""
    merged = [b"ab", b"bc", b"abc", b"cd", b"abcd", b"dd", b"ddd", b"b c"]
    scores = [0.0] * 256 + [1.0, 2.0, 0.5, -1.0, -2.0, math.inf, -5.0, -1e11]
    tokens = [*BYTES, *merged, b"<|begin|>", b"<|end|>", b"<|stop|>"]
    scores += [0.0] * 3
    rules = DllamaTokenizer(tokens, 264, [265, 266], "", add_begin, scores)
    (tmp_path / "other.t").write_bytes(rules.file())
    with open_gguf(imported(demo_pair, tmp_path / "other.t")) as file:
        vocabulary = Vocabulary(file)
    try:
        chance = random.Random(7)
        for _ in range(500):
            text = "".join(chance.choices("abcd ", k=chance.randint(1, 12)))
            assert vocabulary.tokenize(text) == rules.encode(text), text
        assert vocabulary.ends == (265, 266)
        assert vocabulary.n_tokens == 2048  # the model's; those that no text gives have no words
    finally:
        vocabulary.close()


def test_tokenizers_of_older_converters_are_read(demo_pair: Path, tmp_path: Path) -> None:
    """The first format had no pairs; later ones named the tokens that end a text by keys of their own."""
    rules, path = tokenizer_of(DEMO), tmp_path / "old.t"
    now = read_pair(demo_pair)
    path.write_bytes(rules.old_file())
    first = read_pair(demo_pair, path)
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.eos_token_id"):
        assert first.value(key) == now.value(key)
    assert first.value("tokenizer.ggml.add_bos_token") is True
    assert first.value("tokenizer.chat_template") is None
    path.write_bytes(replace(rules, ends=[]).file({4: 2034, 6: 2040, 5: 0}))
    later = read_pair(demo_pair, path)
    assert later.value("tokenizer.ggml.eos_token_id") == 2034
    assert later.value("tokenizer.ggml.eot_token_id") == 2040
    assert later.value("tokenizer.chat_template") == rules.template


def test_a_models_tokenizer_is_found_beside_it(tmp_path: Path) -> None:
    """The one of its name comes first, then the only one; nothing is guessed."""
    model = tmp_path / "dllama_model_llama3.2-1b_q40.m"
    model.write_bytes(header(MODEL_MAGIC, {}))
    assert is_model(model)
    assert not is_model(DEMO)
    with pytest.raises(UsageError, match="no tokenizer"):
        tokenizer_beside(model)
    (tmp_path / "dllama_tokenizer_qwen3.t").touch()
    assert tokenizer_beside(model).name == "dllama_tokenizer_qwen3.t"
    (tmp_path / "dllama_tokenizer_llama3.2-1b.t").touch()
    assert tokenizer_beside(model).name == "dllama_tokenizer_llama3.2-1b.t"
    (tmp_path / "dllama_tokenizer_llama3.2-1b.t").rename(tmp_path / "mine.t")
    with pytest.raises(UsageError, match="several tokenizers"):
        tokenizer_beside(model)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({4: 2_000_000_000}, "layers .* is 2000000000"),
        ({4: 500}, "describes .* bytes but the file ends"),
        ({2: 0}, "embedding .* is 0"),
        ({9: 1 << 24}, "vocabulary .* is 16777216"),
        ({2: -64}, "embedding .* is -64"),
        ({9: 1 << 20}, "describes .* bytes but the file ends"),
        ({7: 1 << 30}, "has 1073741824 experts"),
        ({1: 0xABCD02, 7: 1 << 30}, "experts .* is 1073741824"),
        ({5: 3}, "3 heads cannot share 4 KV heads"),
        ({13: 9}, "weight type .* unknown 9"),
        ({20: 3}, "norm epsilon .* unknown 3"),
        ({1: 7}, "architecture .* unknown 7"),
        ({11: 0}, "only SiLU"),
        ({14: 8, 15: 1, 16: 4, 17: 8192}, "scales qwen3's positions"),
        ({99: 1}, "unknown key 99"),
    ],
)
def test_an_impossible_header_is_refused(
    tmp_path: Path, more: dict[int, int], problem: str
) -> None:
    """The error names the value; nothing of its size is built."""
    _, model = write_pair(tmp_path, "qwen3", "Q4_0", None)
    data = model.read_bytes()
    old = struct.unpack_from("<i", data, 4)[0]
    pairs = dict(struct.iter_unpack("<ii", data[8:old]))
    model.write_bytes(header(MODEL_MAGIC, pairs | more) + data[old:])
    with pytest.raises(ModelError, match=problem):
        read_pair(model)


def test_a_model_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    """Nothing is written of it, wherever it ends."""
    _, model = write_pair(tmp_path, "qwen3", "Q4_0")
    data = model.read_bytes()
    for size in (0, 3, 7, 12, 60, 200, len(data) // 2, len(data) - 1):
        model.write_bytes(data[:size])
        with pytest.raises(ModelError):
            imported(model)
    model.write_bytes(data + b"\0")
    with pytest.raises(ModelError, match="describes"):
        imported(model)
    for magic in (0xABCD00, 0x12345):
        model.write_bytes(struct.pack("<i", magic) + data[4:])
        with pytest.raises(ModelError, match=r"old format|no model"):
            imported(model)
    assert not list(tmp_path.glob("*imported*"))


def test_memory_stays_small(tmp_path: Path) -> None:
    """Matrices of 36 MiB each cost no more memory than those of a few kilobytes."""
    _, model = write_pair(tmp_path, "qwen3", "Q4_0")
    small = peak_import_bytes(model, tmp_path / "out.gguf")
    data = model.read_bytes()
    old = struct.unpack_from("<i", data, 4)[0]
    pairs = dict(struct.iter_unpack("<ii", data[8:old]))
    model.write_bytes(header(MODEL_MAGIC, pairs | {FEED_FORWARD: 1 << 18}) + data[old:])
    with pytest.raises(ModelError, match="describes") as refusal:
        read_pair(model)
    found = re.search(r"describes (\d+) bytes", str(refusal.value))
    assert found
    os.truncate(model, int(found[1]))  # a file with a hole
    assert peak_import_bytes(model, tmp_path / "out.gguf") - small < 24 << 20


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({1: 2_000_000_000}, "claims 2000000000 tokens"),
        ({1: 0}, "claims 0 tokens"),
        ({1: -5}, "claims -5 tokens"),
        ({1: 2000}, "bytes follow the last token|begins or ends a text"),
        ({3: -1}, "token -1 begins or ends"),
        ({3: 5000}, "token 5000 begins or ends"),
        ({3: 100}, "no token for the byte"),
        ({7: 1 << 30}, "the chat template needs 1073741824 bytes"),
        ({8: 1 << 30}, "stop text needs 1073741824 bytes"),
        ({9: 1 << 30}, "claims 1073741824 tokens that end"),
        ({0: 0}, "version is 0"),
        ({77: 0}, "unknown key 77"),
    ],
)
def test_a_tokenizer_that_lies_is_refused(
    demo_pair: Path, tmp_path: Path, more: dict[int, int], problem: str
) -> None:
    """The error says what is wrong; no count is believed before the bytes are there."""
    path = tmp_path / "lies.t"
    path.write_bytes(tokenizer_of(DEMO).file(more))
    with pytest.raises(ModelError, match=problem):
        read_pair(demo_pair, path)


def test_tokens_that_llama_cpp_cannot_have_are_refused(demo_pair: Path, tmp_path: Path) -> None:
    """The same token twice, no token at all, words that are no text, more than the model has."""
    path, special = tmp_path / "bad.t", [b"<|begin|>", b"<|end|>"]
    broken: dict[str, list[bytes]] = {
        "256 and 257 are the same": [*BYTES, b"xy", b"xy", *special],
        "the same": [*BYTES, b"<|end|>", *special],
        "0 bytes long": [*BYTES, b"", *special],
        "not UTF-8": [*BYTES, *special, b"\xff\xfe"],
        "only 2048": [*BYTES, *(b"w%d" % index for index in range(3000)), *special],
    }
    for problem, tokens in broken.items():
        begin = tokens.index(b"<|begin|>")
        path.write_bytes(DllamaTokenizer(tokens, begin, [begin + 1]).file())
        with pytest.raises(ModelError, match=problem):
            read_pair(demo_pair, path)


def test_a_tokenizer_cut_short_anywhere_is_refused(demo_pair: Path, tmp_path: Path) -> None:
    """Wherever it ends, the error is dure's own."""
    data, path = tokenizer_of(DEMO).file(), tmp_path / "cut.t"
    for size in (*range(0, 120, 7), 4000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(DureError):
            read_pair(demo_pair, path)
