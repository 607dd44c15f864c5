"""What a rank keeps of saved sequences, here and elsewhere: only what is wanted, only where it may."""

from __future__ import annotations

from pathlib import Path

import pytest

from dure.engine.saved.sequence_files import MOST_DIRECTORIES, RankFiles
from dure.errors import UsageError


def test_here_the_client_says_where(tmp_path: Path) -> None:
    kept = RankFiles(2)
    assert kept.file(f"{tmp_path}/cut/abc") == tmp_path / "cut" / "abc.rank2"


def test_elsewhere_the_machine_says_where(tmp_path: Path) -> None:
    """Of the client's path the last two names count."""
    kept = RankFiles(2, str(tmp_path))
    assert kept.file("/cache/other/cut/abc") == tmp_path / "cut" / "abc.rank2"


@pytest.mark.parametrize(
    "path", ["/x/../abc", "/x/cut/..", "cut/.", "/", "", "abc", "a b/c", "/a/c\n"]
)
def test_elsewhere_no_path_leads_out(tmp_path: Path, path: str) -> None:
    with pytest.raises(UsageError, match="no name of a saved sequence"):
        RankFiles(0, str(tmp_path)).file(path)


def test_only_what_is_wanted_stays_and_of_this_rank_alone(tmp_path: Path) -> None:
    kept = RankFiles(1)
    for name in ("a.rank1", "b.rank1", "b.rank1.part", "b.rank0", "b.rank10", "b.tokens"):
        (tmp_path / name).write_bytes(b"12345")
    found, free = kept.keep_only(str(tmp_path), ["a", "c"])
    assert found == ["a"]
    assert free > 5
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.rank1", "b.rank0", "b.rank10", "b.tokens"}
    kept.drop(f"{tmp_path}/a")
    kept.drop(f"{tmp_path}/a")
    assert not (tmp_path / "a.rank1").exists()


def test_elsewhere_only_the_latest_cuts_are_kept(tmp_path: Path) -> None:
    """A machine does not fill up with the parts of models that ran there once."""
    kept = RankFiles(0, str(tmp_path / "prefixes"))
    for n in range(MOST_DIRECTORIES + 2):
        kept.keep_only(f"/root/cut{n}", [])
    assert {p.name for p in (tmp_path / "prefixes").iterdir()} == {"cut2", "cut3", "cut4"}


def test_a_directory_that_cannot_be_made_has_no_room(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert RankFiles(0).keep_only(f"{tmp_path}/file/cut", ["a"]) == ([], 0)
