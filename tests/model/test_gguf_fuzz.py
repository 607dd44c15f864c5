"""Whatever the bytes are, `open_gguf` returns a readable model or raises ModelError.

Three sources of trouble: random bytes, well-formed headers whose numbers lie, and real files
with bytes flipped, cut off, put in, or overwritten by large numbers.
"""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dure.errors import ModelError
from dure.model.ggml import ggml_type
from dure.model.gguf import GgufFile, open_gguf

MEMORY_OVERHEAD_BYTES = 2 << 20
# the deadline is no measurement: it is there for a loop that trusts a number in the file
FUZZ = settings(
    max_examples=400,
    deadline=10_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LARGE_NUMBERS = [0, 1, 127, 255, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
LARGE_NUMBERS += [1 << 32, 1 << 61, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
lying_numbers = st.sampled_from(LARGE_NUMBERS) | st.integers(0, 64) | st.integers(0, (1 << 64) - 1)


def outcome(path: Path) -> str:
    """ "model" or "refused"; fails when it is neither, or memory was taken on the file's word."""
    ggml_type(0)  # the library is loaded before memory is measured
    refusal = None
    tracemalloc.start()
    try:
        model = open_gguf(path)
    except ModelError as error:
        refusal = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= path.stat().st_size + MEMORY_OVERHEAD_BYTES
    if refusal is not None:
        assert refusal.isprintable(), refusal
        return "refused"
    with model:
        read_everything(model)
    return "model"


def read_everything(model: GgufFile) -> None:
    for tensor in model.tensors.values():
        assert 0 < tensor.offset <= tensor.offset + tensor.size_bytes <= model.size_bytes
        assert tensor.row_bytes * tensor.n_rows == tensor.size_bytes
        assert len(model.read(tensor, 0, tensor.size_bytes)) == tensor.size_bytes
    for value in model.metadata.values():
        decoded = value.value
        assert not isinstance(decoded, list) or len(decoded) == value.count
    assert len(model.fingerprint) == 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def real_file(path: Path, *, alignment: int) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    writer.add_name("a small model")
    writer.add_block_count(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_token_list([f"token {index}" for index in range(40)])
    writer.add_token_scores([0.5] * 40)
    writer.add_token_types([1] * 40)
    writer.add_add_bos_token(True)
    rng = np.random.default_rng(alignment)
    for index, width in enumerate((32, 64, 256)):
        encoded = rng.integers(0, 256, (3, width // 32 * 18), dtype=np.uint8)
        twin = gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor(f"blk.{index}.ffn_down.weight", encoded, raw_dtype=twin)
        writer.add_tensor(f"blk.{index}.norm.weight", rng.random(width, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def originals(folder: Path) -> list[bytes]:
    return [real_file(folder / f"{alignment}.gguf", alignment=alignment) for alignment in (32, 8)]


def test_the_files_that_are_mutated_are_models(folder: Path, originals: list[bytes]) -> None:
    for content in originals:
        (folder / "whole.gguf").write_bytes(content)
        assert outcome(folder / "whole.gguf") == "model"


@FUZZ
@given(content=st.binary(max_size=4096), version=st.sampled_from([b"", b"\2\0\0\0", b"\3\0\0\0"]))
def test_random_bytes_are_refused_or_read(folder: Path, content: bytes, version: bytes) -> None:
    (folder / "random.gguf").write_bytes((b"GGUF" + version if version else b"") + content)
    outcome(folder / "random.gguf")


# --- headers that lie ------------------------------------------------------------------------

names = st.binary(max_size=70) | st.sampled_from(
    [b"general.architecture", b"general.alignment", b"split.count", b"split.no", b"w"]
)
kinds = st.integers(0, 13) | lying_numbers.map(lambda number: number & 0xFFFFFFFF)


def pack_text(content: bytes, length: int | None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    return pack_text(draw(names), draw(st.none() | st.none() | lying_numbers))


@st.composite
def keys(draw: st.DrawFn) -> bytes:
    kind = draw(kinds)
    if kind == 9 and draw(st.booleans()):
        raw = struct.pack("<IQ", draw(kinds), draw(lying_numbers)) + draw(st.binary(max_size=40))
    elif kind == 8:
        raw = draw(texts())
    else:
        raw = draw(st.binary(max_size=16))
    return draw(texts()) + struct.pack("<I", kind) + raw


@st.composite
def tensors(draw: st.DrawFn) -> bytes:
    shape = draw(st.lists(st.sampled_from([1, 2, 32, 64, 256]) | lying_numbers, max_size=5))
    n_dims = draw(st.just(len(shape)) | st.integers(0, 6))
    type_id = draw(st.integers(0, 45) | kinds)
    offset = draw(st.sampled_from([0, 32, 64, 128, 1 << 20]) | lying_numbers)
    sizes = struct.pack(f"<I{len(shape)}Q", n_dims, *shape)
    return draw(texts()) + sizes + struct.pack("<IQ", type_id, offset)


@FUZZ
@given(
    key_list=st.lists(keys(), max_size=4),
    tensor_list=st.lists(tensors(), max_size=4),
    counts=st.none() | st.none() | st.tuples(lying_numbers, lying_numbers),
    tail_bytes=st.integers(0, 4096),
)
def test_headers_whose_numbers_lie_are_refused_or_read(
    folder: Path,
    key_list: list[bytes],
    tensor_list: list[bytes],
    counts: tuple[int, int] | None,
    tail_bytes: int,
) -> None:
    n_tensors, n_keys = counts or (len(tensor_list), len(key_list))
    head = struct.pack("<4sIQQ", b"GGUF", 3, n_tensors, n_keys)
    content = head + b"".join(key_list) + b"".join(tensor_list) + bytes(tail_bytes)
    (folder / "lies.gguf").write_bytes(content)
    outcome(folder / "lies.gguf")


# --- real files, damaged ---------------------------------------------------------------------


def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["flip", "cut", "insert", "remove", "u32", "u64"])):
            case "flip" if data:
                data[place] ^= draw(st.integers(1, 255))
            case "cut":
                del data[place:]
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=40))
            case "remove":
                del data[place : place + draw(st.integers(1, 40))]
            case "u32":
                data[place : place + 4] = struct.pack("<I", draw(lying_numbers) & 0xFFFFFFFF)
            case "u64":
                data[place : place + 8] = struct.pack("<Q", draw(lying_numbers))
    return bytes(data)


@FUZZ
@given(data=st.data())
def test_damaged_models_are_refused_or_read(
    folder: Path, originals: list[bytes], data: st.DataObject
) -> None:
    content = data.draw(st.composite(mutated)(data.draw(st.sampled_from(originals))))
    (folder / "damaged.gguf").write_bytes(content)
    outcome(folder / "damaged.gguf")


@pytest.mark.parametrize("number", LARGE_NUMBERS)
def test_one_large_number_anywhere_in_the_header_is_survived(
    folder: Path, originals: list[bytes], number: int
) -> None:
    content = originals[1]
    for place in range(4, 400, 2):
        damaged = content[:place] + struct.pack("<Q", number) + content[place + 8 :]
        (folder / "number.gguf").write_bytes(damaged)
        outcome(folder / "number.gguf")
