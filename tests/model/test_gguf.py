"""The GGUF reader against the `gguf` package, and every complaint it has."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from dure.errors import ModelError
from dure.model.ggml import type_named
from dure.model.gguf import (
    GgufWriter,
    TensorSpec,
    ValueKind,
    open_gguf,
    value_of,
)
from tests.support.small_gguf import TOKENS, weights, write_with_gguf

F32 = type_named("F32")


def raw_file(
    path: Path, *, keys: Sequence[bytes] = (), tensors: Sequence[bytes] = (), data: int = 0
) -> Path:
    body = b"".join(keys) + b"".join(tensors)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys)) + body
    path.write_bytes(head.ljust(-(-len(head) // 32) * 32, b"\0") + bytes(data))
    return path


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def key(name: bytes, kind: int, raw: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + raw


def entry(name: bytes, shape: list[int], type_id: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", type_id, offset)


def refusal(path: Path) -> str:
    """What `open_gguf` says about a file it refuses: one line."""
    with pytest.raises(ModelError) as caught:
        open_gguf(path)
    message = str(caught.value)
    assert message.isprintable(), message
    return message


# --- reading ---------------------------------------------------------------------------------


def test_every_kind_of_value_is_read_as_the_gguf_package_wrote_it(tmp_path: Path) -> None:
    write_with_gguf(tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as model:
        got = {name: value.value for name, value in model.metadata.items() if name[0] == "k"}
    assert got.pop("k.f32") == 0.5
    assert got == {
        "k.u8": 200,
        "k.i8": -100,
        "k.u16": 60000,
        "k.i16": -30000,
        "k.u32": 4_000_000_000,
        "k.i32": -2_000_000_000,
        "k.u64": 1 << 63,
        "k.i64": -(1 << 62),
        "k.f64": 0.1,
        "k.bool": True,
        "k.str": "한 줄",
        "k.tokens": TOKENS,
        "k.ints": [1, -2, 3],
    }


def test_arrays_tell_their_kind_and_length_undecoded(tmp_path: Path) -> None:
    write_with_gguf(tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as model:
        tokens = model.metadata["k.tokens"]
        ints = model.metadata["k.ints"]
    assert (tokens.kind, tokens.item_kind, tokens.count) == (ValueKind.ARRAY, ValueKind.STRING, 4)
    assert (ints.item_kind, ints.count) == (ValueKind.INT32, 3)


def test_tensors_have_ggml_shapes_and_their_bytes_can_be_read(tmp_path: Path) -> None:
    write_with_gguf(tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as model:
        matrix, norm = model.tensors["blk.0.w"], model.tensors["norm"]
        assert list(model.tensors) == ["blk.0.w", "norm"]
        assert (matrix.shape, matrix.type.name, matrix.row_bytes) == ((64, 3), "Q4_0", 36)
        assert (matrix.n_elements, matrix.n_rows, matrix.size_bytes) == (192, 3, 108)
        assert norm.n_rows == 1
        assert bytes(model.read(norm, 0, 28)) == weights(7).tobytes()
        assert bytes(model.read(norm, 8, 4)) == weights(7)[2:3].tobytes()
        with pytest.raises(ValueError, match="norm has no bytes"):
            model.read(norm, 20, 9)


def test_typed_access_checks_kinds_and_knows_defaults(tmp_path: Path) -> None:
    write_with_gguf(tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as model:
        assert model.architecture == "llama"
        assert model.int("k.u8") == 200
        assert model.float("k.f64") == 0.1
        assert model.bool("k.bool") is True
        assert model.bool("absent", False) is False
        assert (model.int("absent", 0), model.str("absent", "")) == (0, "")
        with pytest.raises(ModelError, match=r"m.gguf: k.str must be an integer but is STRING"):
            model.int("k.str")
        with pytest.raises(ModelError, match=r"k.bool must be an integer but is BOOL"):
            model.int("k.bool")
        with pytest.raises(ModelError, match=r"m.gguf: the metadata has no absent"):
            model.float("absent")


def test_a_split_model_opens_whole_from_any_part(tmp_path: Path) -> None:
    write_with_gguf(tmp_path / "m.gguf", split_max_tensors=1)
    parts = sorted(tmp_path.iterdir())
    assert [part.name for part in parts] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    with open_gguf(parts[0]) as first, open_gguf(parts[1]) as second:
        assert first.paths == second.paths == tuple(parts)
        assert first.size_bytes == sum(part.stat().st_size for part in parts)
        assert first.fingerprint == second.fingerprint
        assert first.architecture == second.architecture == "llama"
        norm = second.tensors["norm"]
        assert norm.path == parts[1]
        assert bytes(first.read(norm, 0, norm.size_bytes)) == weights(7).tobytes()


def test_a_split_model_is_refused_when_its_parts_do_not_fit(tmp_path: Path) -> None:
    write_with_gguf(tmp_path / "m.gguf", split_max_tensors=1)
    first, second = sorted(tmp_path.iterdir())
    whole = second.read_bytes()

    second.unlink()
    assert re.search(r"m-00002-of-00002.gguf does not exist.*one folder", refusal(first))
    second.write_bytes(first.read_bytes())
    assert "named part 2 of 2, but inside it has split.no 0" in refusal(first)
    second.write_bytes(whole.replace(b"norm", b"blk."))
    first.write_bytes(first.read_bytes().replace(b"blk.0.w", b"blk.0.v"))
    second.write_bytes(whole)
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(whole)
    assert "one part of 2 but its name does not say which" in refusal(alone)
    assert "no such part of 2" in refusal(tmp_path / "m-00003-of-00002.gguf")


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    for number in (0, 1):
        metadata = {
            "split.no": value_of(ValueKind.UINT16, number),
            "split.count": value_of(ValueKind.UINT16, 2),
        }
        path = tmp_path / f"m-{number + 1:05}-of-00002.gguf"
        with GgufWriter(path, metadata, [TensorSpec("w", (1,), F32)]) as writer:
            writer.write(bytes(4))
    assert "tensor w is there twice" in refusal(tmp_path / "m-00001-of-00002.gguf")


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    write_with_gguf(tmp_path / "m.gguf")
    content = bytearray((tmp_path / "m.gguf").read_bytes())
    (tmp_path / "copy.gguf").write_bytes(content)
    content[-32] ^= 1  # inside the last tensor
    (tmp_path / "other.gguf").write_bytes(content)
    prints = []
    for name in ("m", "copy", "other"):
        with open_gguf(tmp_path / f"{name}.gguf") as model:
            prints.append(model.fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_a_file_that_shrinks_after_opening_is_an_error_and_no_crash(tmp_path: Path) -> None:
    write_with_gguf(tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as model:
        norm = model.tensors["norm"]
        os.truncate(tmp_path / "m.gguf", norm.offset + 10)
        with pytest.raises(ModelError, match="tensor norm is cut off"):
            model.read(norm, 0, norm.size_bytes)


# --- refusing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty: download it again"),
        (b"GG", "this is not a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer: download the file"),
        (b"PK\x03\x04" + bytes(40), "PyTorch checkpoint: convert it to GGUF first"),
        (struct.pack("<Q", 20) + b'{"a":{}}', "safetensors file: convert it to GGUF first"),
        (b"\n<!DOCTYPE html><html>", "web page or an error message: download the file itself"),
        (b'{"error":"not found"}', "web page or an error message"),
        (b"tjgg" + bytes(40), "format before GGUF: convert the model again"),
        (b"\x1f\x8b" + bytes(40), "compressed file: unpack it first"),
        (bytes(4096), "begins with zeros: the download was not finished"),
        (b"\xff\n\x00\x1b[0m", "this is not a GGUF file: it begins with \\xff\\n\\x00\\x1b: name"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "GGUF version 1 is too old"),
        (struct.pack("<4sIQQ", b"GGUF", 4, 0, 0), "GGUF version 4 is unknown"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "big-endian GGUF: use a little-endian one"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 9, 0), "9 tensors cannot be in a file of 24 bytes"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 9), "9 metadata keys cannot be in a file of 24"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1 << 63, 0), "it claims 9223372036854775808 tensors"),
        (b"GGUF\x03\0\0\0\1", "the number of tensors needs bytes 8..16 but the file ends at 9"),
    ],
)
def test_what_is_no_gguf_is_told_for_what_it_is(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    got = refusal(tmp_path / "x.gguf")
    assert got.startswith("x.gguf: ")
    assert message in got


HUGE = 1 << 62


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([key(b"a", 4, b"\1\0\0\0")] * 2, "metadata key a is there twice"),
        ([key(b"", 4, b"\1\0\0\0")], "metadata key 0 is 0 bytes long, not 1 to 65535"),
        ([key(b"k" * 65536, 4, b"\1\0\0\0")], "metadata key 0 is 65536 bytes long"),
        ([key(b"\xff", 4, b"\1\0\0\0")], "metadata key 0 is not UTF-8"),
        ([key(b"a\nb", 13, b"\1\0\0\0")], "the value of a\\nb is of the unknown kind 13"),
        ([key(b"a", 8, struct.pack("<Q", HUGE))], "the value of a needs bytes 37.."),
        ([key(b"a", 9, struct.pack("<IQ", 10, HUGE))], "the value of a needs bytes 49.."),
        ([key(b"a", 9, struct.pack("<IQ", 8, HUGE))], "the value of a needs bytes 49.."),
        ([key(b"a", 9, struct.pack("<IQQ", 8, 1, HUGE))], "the value of a needs bytes 49.."),
        ([key(b"a", 9, struct.pack("<IQ", 9, 1))], "the value of a is an array of arrays"),
        ([key(b"general.alignment", 10, bytes(8))], "must be UINT32 but is UINT64"),
        ([key(b"general.alignment", 4, struct.pack("<I", 48))], "is 48, not a power of two"),
        ([key(b"general.alignment", 4, struct.pack("<I", 1 << 17))], "is 131072, not a power"),
        ([key(b"general.alignment", 4, bytes(4))], "is 0, not a power of two"),
        ([key(b"split.count", 8, text(b"2"))], "split.count must be an integer but is STRING"),
    ],
)
def test_metadata_that_lies_is_refused(tmp_path: Path, keys: list[bytes], message: str) -> None:
    assert message in refusal(raw_file(tmp_path / "x.gguf", keys=keys))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([entry(b"w", [8]), entry(b"w", [8], 0, 32)], "tensor w is there twice"),
        ([entry(b"", [8])], "the name of tensor 0 is 0 bytes long, not 1 to 63"),
        ([entry(b"n" * 64, [8])], "the name of tensor 0 is 64 bytes long, not 1 to 63"),
        ([entry(b"a\0b", [8])], "tensor a\\x00b has a zero byte in its name"),
        ([entry(b"w", [])], "tensor w has 0 dimensions, not 1 to 4"),
        ([entry(b"w", [1] * 5)], "tensor w has 5 dimensions, not 1 to 4"),
        ([entry(b"w", [8, 0])], "tensor w has the shape (8, 0)"),
        ([entry(b"w", [1 << 32, 1 << 32])], "tensor w has the impossible shape"),
        ([entry(b"w", [40], 2)], "tensor w has rows of 40 elements, which Q4_0 cannot store"),
        ([entry(b"w", [8], 4)], "tensor w: tensor type 4 is unknown to the installed llama.cpp"),
        ([entry(b"w", [8], 9999)], "tensor w: tensor type 9999 is unknown"),
        ([entry(b"w", [8], 0, 7)], "tensor w starts at 71, not a multiple of 32"),
        ([entry(b"w", [1000])], "tensor w needs bytes 64..4064 but the file ends at 192"),
        ([entry(b"w", [8], 0, HUGE)], "tensor w needs bytes 4611686018427387968.."),
        ([entry(b"v", [16]), entry(b"w", [8], 0, 32)], "tensors v and w overlap"),
    ],
)
def test_tensor_directories_that_lie_are_refused(
    tmp_path: Path, tensors: list[bytes], message: str
) -> None:
    assert message in refusal(raw_file(tmp_path / "x.gguf", tensors=tensors, data=128))


def test_a_file_cut_at_any_byte_is_called_truncated(tmp_path: Path) -> None:
    write_with_gguf(tmp_path / "m.gguf")
    content = (tmp_path / "m.gguf").read_bytes()
    with open_gguf(tmp_path / "m.gguf") as model:
        norm = model.tensors["norm"]
        end = norm.offset + norm.size_bytes
    for length in (*range(30, 200, 7), norm.offset, end - 1):
        (tmp_path / "x.gguf").write_bytes(content[:length])
        assert f"but the file ends at {length}: it is truncated" in refusal(
            tmp_path / "x.gguf"
        ) or f"cannot be in a file of {length} bytes" in refusal(tmp_path / "x.gguf")


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    (tmp_path / "plain").write_bytes(b"x")
    assert "is a folder: name the .gguf file in it" in refusal(tmp_path)
    assert "does not exist: check the name" in refusal(tmp_path / "absent.gguf")
    assert "is a device or pipe" in refusal(tmp_path / "pipe.gguf")
    assert "is a device or pipe" in refusal(Path("/dev/zero"))
    assert "cannot be read: Too many levels of symbolic links" in refusal(tmp_path / "loop.gguf")
    assert "cannot be read: Not a directory" in refusal(tmp_path / "plain" / "x.gguf")
    assert "cannot be read: File name too long" in refusal(tmp_path / ("x" * 300))
    assert "cannot be read: " in refusal(Path("a\0b"))
