"""The GGUF writer against the `gguf` package, full disks included."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import quants

from dure.errors import ModelError, ResourceError
from dure.model.ggml import quantize, type_named
from dure.model.gguf import (
    GgufWriter,
    TensorSpec,
    Value,
    ValueKind,
    array_of,
    open_gguf,
    value_of,
)
from tests.support.small_gguf import TOKENS, weights, write_with_gguf

F32 = type_named("F32")


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def test_the_gguf_package_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    metadata: dict[str, Value | bool | int | float | str] = {
        "general.architecture": "qwen3",
        "a.bool": True,
        "a.int": 7,
        "a.negative": -7,
        "a.float": 0.5,
        "a.tokens": array_of(ValueKind.STRING, TOKENS),
    }
    matrix, norm = weights(3, 64), weights(5)
    specs = [TensorSpec("w", (64, 3), type_named("Q8_0")), TensorSpec("norm", (5,), F32)]
    with GgufWriter(path, metadata, specs) as writer:
        assert not path.exists()
        for row in quantize(matrix, specs[0].type):  # in chunks of a row
            writer.write(row)
        writer.write(norm)
    content = path.read_bytes()
    assert writer.sha256 == hashlib.sha256(content).hexdigest()
    assert writer.size_bytes == len(content)
    assert list(tmp_path.iterdir()) == [path]

    reader = gguf.GGUFReader(path)
    got = {name: reader.get_field(name).contents() for name in metadata}
    assert got == {**metadata, "a.tokens": TOKENS}
    first, second = reader.tensors
    assert (first.name, list(first.shape), second.name) == ("w", [64, 3], "norm")
    expected = quants.quantize(matrix, gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(first.data, expected)
    assert np.array_equal(second.data, norm)


@pytest.mark.parametrize("alignment", [1, 32, 256])
def test_a_copied_model_is_the_same_model(tmp_path: Path, alignment: int) -> None:
    write_with_gguf(tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as model:
        tensors = list(model.tensors.values())
        path = tmp_path / "copy.gguf"
        with GgufWriter(path, model.metadata, tensors, alignment) as writer:
            for tensor in tensors:
                writer.write(model.read(tensor, 0, tensor.size_bytes))
        with open_gguf(path) as copy:
            assert copy.alignment == alignment
            for name, value in model.metadata.items():
                assert copy.metadata[name] == value
            for tensor in tensors:
                twin = copy.tensors[tensor.name]
                assert twin.offset % alignment == 0
                assert (twin.shape, twin.type) == (tensor.shape, tensor.type)
                whole = (0, tensor.size_bytes)
                assert copy.read(twin, *whole) == model.read(tensor, *whole)
    if alignment == 32:
        assert path.read_bytes() == (tmp_path / "m.gguf").read_bytes()


def test_a_new_alignment_replaces_the_one_in_the_metadata(tmp_path: Path) -> None:
    for alignment in (64, 32):
        path = tmp_path / f"{alignment}.gguf"
        metadata = {"general.alignment": value_of(ValueKind.UINT32, 128)}
        with GgufWriter(path, metadata, [TensorSpec("w", (3,), F32)], alignment) as writer:
            writer.write(bytes(12))
        with open_gguf(path) as model:
            assert model.alignment == alignment


def write_chunks(path: Path, *n_bytes: int) -> None:
    """Write chunks of these sizes to a file that has one tensor of 16 bytes."""
    with GgufWriter(path, {}, [TensorSpec("w", (4,), F32)]) as writer:
        for n in n_bytes:
            writer.write(bytes(n))


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([8], "w was not written completely"),
        ([8, 9], "w lacks 8 bytes but 9 arrived"),
        ([16, 0, 1], "1 bytes arrived after the last tensor"),
        ([8, -1], "negative count"),  # raised by the caller inside the block
    ],
)
def test_nothing_is_left_when_writing_fails_and_an_old_file_survives(
    tmp_path: Path, chunks: list[int], message: str
) -> None:
    path = tmp_path / "out.gguf"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        write_chunks(path, *chunks)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_writes_only_inside_its_block(tmp_path: Path) -> None:
    writer = GgufWriter(tmp_path / "x.gguf", {}, [TensorSpec("w", (4,), F32)])
    with pytest.raises(ValueError, match="write inside"):
        writer.write(bytes(16))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TensorSpec("n" * 64, (4,), F32), "a name that is not 1 to 63 bytes long"),
        (TensorSpec("w", (4, 4, 4, 4, 4), F32), "tensor w has the shape"),
        (TensorSpec("w", (33,), type_named("Q4_0")), "tensor w has rows of 33 elements"),
    ],
)
def test_tensors_llama_cpp_cannot_hold_are_not_written(
    tmp_path: Path, spec: TensorSpec, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        GgufWriter(tmp_path / "x.gguf", {}, [spec])


def test_values_that_do_not_fit_their_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="300 cannot be a UINT8"):
        value_of(ValueKind.UINT8, 300)
    with pytest.raises(ValueError, match="use array_of"):
        value_of(ValueKind.ARRAY, 1)
    with pytest.raises(ValueError, match="cannot be an ARRAY"):
        array_of(ValueKind.ARRAY, [[1]])
    assert array_of(ValueKind.INT32, []).value == []
    assert Value(ValueKind.STRING, text(b"a\xffb")).value == "a\N{REPLACEMENT CHARACTER}b"


def test_a_model_larger_than_the_disk_is_not_begun(tmp_path: Path) -> None:
    spec = TensorSpec("w", (1 << 50,), F32)
    message = rf"disk full .*: {(1 << 52) + 64} bytes needed in .*, \d+ free: make room there"
    with pytest.raises(ResourceError, match=message), GgufWriter(tmp_path / "x.gguf", {}, [spec]):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "x.gguf.part").symlink_to("/dev/full")
    spec = TensorSpec("w", (4,), F32)
    with (
        pytest.raises(ResourceError, match=r"disk full \(No space left on device\): 96 bytes"),
        GgufWriter(tmp_path / "x.gguf", {}, [spec]) as writer,
    ):
        writer.write(bytes(16))
    assert list(tmp_path.iterdir()) == []


def test_a_limit_on_file_sizes_in_the_middle_of_a_tensor_is_told(tmp_path: Path) -> None:
    script = """
        import resource, sys
        from pathlib import Path
        from dure.model.ggml import type_named
        from dure.model.gguf import GgufWriter, TensorSpec
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        spec = TensorSpec("w", (4096,), type_named("F32"))
        with GgufWriter(Path(sys.argv[1]), {}, [spec]) as writer:
            writer.write(bytes(16384))
    """
    path = tmp_path / "x.gguf"
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ResourceError: disk full (File too large): 16448 bytes needed in" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(ResourceError, match="cannot be written: No such file or directory"),
        GgufWriter(tmp_path / "absent" / "x.gguf", {}, []),
    ):
        pass
