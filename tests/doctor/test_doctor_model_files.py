"""A model's file: its tokens are compared with its rows, and its checksum with the published one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest

from dure.doctor.checks.model_file import MODEL_CHECKS
from dure.doctor.finding import Finding, Severity, judged
from dure.doctor.model_file import read_model_file
from dure.model.store.library import FileRecord, Record


def written(path: Path, n_tokens: int, n_rows: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list([f"t{i}" for i in range(n_tokens)])
    writer.add_tensor("token_embd.weight", np.zeros((n_rows, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def found(path: Path, check: str) -> Finding:
    [finding] = [one for one in judged(MODEL_CHECKS, read_model_file(path)) if one.check == check]
    return finding


@pytest.mark.parametrize(
    ("n_tokens", "n_rows", "severity"),
    [(96, 96, Severity.HEALTHY), (90, 96, Severity.NOTE), (99, 96, Severity.SERIOUS)],
)
def test_tokens_are_compared_with_rows(
    tmp_path: Path, n_tokens: int, n_rows: int, severity: Severity
) -> None:
    """Rows without a token are padding; a token without a row cannot be computed."""
    finding = found(written(tmp_path / "model.gguf", n_tokens, n_rows), "vocabulary")
    assert finding.severity == severity
    assert finding.evidence == f"{n_tokens} tokens, {n_rows} rows in model.gguf"


def test_a_file_that_is_no_model_has_tokens_that_cannot_be_read(tmp_path: Path) -> None:
    """The reason is the evidence."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert found(tmp_path / "model.gguf", "vocabulary").severity == Severity.UNREADABLE


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_pulled_file_is_compared_with_its_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_whole: bool
) -> None:
    """One bit that has changed since it was pulled is found, though the file's header is whole."""
    monkeypatch.setenv("DURE_MODELS", str(tmp_path))
    path = written(tmp_path / "owner" / "model.gguf", 8, 8)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    file = FileRecord(path="owner/model.gguf", sha256=sha256)
    record = Record(name="hf:owner/model", source="https://example.org", files=(file,))
    path.with_name("model.gguf.json").write_bytes(msgspec.json.encode(record))
    if not is_whole:
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
    expected = Severity.HEALTHY if is_whole else Severity.SERIOUS
    assert found(path, "checksum").severity == expected


def test_a_file_that_was_not_pulled_has_no_checksum_to_compare_with(tmp_path: Path) -> None:
    """Its own is given, to be compared with the publisher's by hand."""
    path = written(tmp_path / "model.gguf", 8, 8)
    finding = found(path, "checksum")
    assert finding.severity == Severity.UNREADABLE
    assert hashlib.sha256(path.read_bytes()).hexdigest() in finding.cure
