"""docs/troubleshooting.md has what the program says: its errors are read from the source."""

from __future__ import annotations

from pathlib import Path

import pytest
from error_texts import ErrorText, error_texts, section_of

PROGRAM = '''
_CURE = "get it again"
MOST = 5

class ModelError(DureError):
    """Derived."""

class OwnError(ModelError):
    """Derived from what is derived."""

class _Reader:
    def fail(self, problem: str, cure: str = "it is damaged"):
        raise ModelError(f"{self.name}: {problem}", cure)

    def read(self, n):
        self.fail(f"it has {n} of {MOST} pieces")
        self.fail("it is empty", "name another")

def act(path, error):
    raise ModelError(f"{path!r} is a|b", f"run `dure show {path}`")
    raise OwnError("nothing works", cure=_CURE)
    raise ModelError(f"{path.name}: {error.strerror}, {len(path)} bytes, {path[0]}", f"see `ls {path}`")
    raise error
    raise ModelError(error.problem, error.cure)
    raise ValueError("a bug of ours")
    return Refusal(401, "an API key is wanted: send one")
'''


@pytest.fixture
def found(tmp_path: Path) -> list[ErrorText]:
    module = tmp_path / "model" / "file.py"
    module.parent.mkdir()
    module.write_text(PROGRAM)
    return error_texts(tmp_path)


def test_problems_and_cures_are_read_as_a_user_sees_them(found: list[ErrorText]) -> None:
    """Values are italics outside of code and capitals in it; bugs and passed-on errors are left out."""
    assert {(one.problem, one.cure) for one in found} == {
        ("*path* is a\\|b", "run `dure show PATH`"),
        ("nothing works", "get it again"),
        ("*path*: *reason*, *number* bytes, …", "see `ls PATH`"),
        ("*name*: it has *n* of 5 pieces", "it is damaged"),
        ("*name*: it is empty", "name another"),
        ("an API key is wanted", "send one"),
    }


def test_every_error_of_the_program_has_a_section() -> None:
    """And some that users often meet are among them."""
    texts = error_texts()
    assert len(texts) > 700
    said = {one.problem: one.cure for one in texts if section_of(one.path)}
    assert said["an API key is wanted"].startswith("send it as")
    assert said["*directory* holds no cluster"] == "`dure cluster init` makes one"


def test_a_module_without_a_section_is_told() -> None:
    with pytest.raises(KeyError, match=r"garden/bed\.py has no section"):
        section_of("garden/bed.py")
