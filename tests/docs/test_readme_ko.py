"""README.ko.md says what README.md says: whoever changes one is told to change the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH, KOREAN = ((ROOT / name).read_text() for name in ("README.md", "README.ko.md"))
BOTH = (ENGLISH, KOREAN)


def code(page: str) -> list[str]:
    """Blocks of code, and lines that are indented by four."""
    fenced = re.findall(r"^```.*?^```", page, re.MULTILINE | re.DOTALL)
    return [*fenced, *re.findall(r"^ {4}.+$", page, re.MULTILINE)]


def rows(page: str) -> list[list[str]]:
    lines = re.findall(r"^\|(.+)\|$", page, re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]


def links(page: str) -> list[str]:
    """Where a page's links lead, but those within the page and to the page in the other language."""
    targets = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", page)
    found = [one or other for one, other in targets]
    return sorted(one for one in found if not one.startswith("#") and not one.startswith("README"))


def quoted(page: str) -> list[str]:
    """What stands between backticks: commands, options, variables and files, which have one spelling."""
    return sorted(re.findall(r"`([^`\n]+)`", page))


def test_headings_correspond() -> None:
    levels = [re.findall(r"^#+(?= )", page, re.MULTILINE) for page in BOTH]
    assert levels[0] == levels[1]
    assert len(levels[0]) > 7


def test_code_is_the_same() -> None:
    assert code(KOREAN) == code(ENGLISH)
    assert len(code(ENGLISH)) > 5


def test_tables_have_the_same_rows_in_the_same_order() -> None:
    """As many cells each; and where one begins with code or a number, the same."""
    theirs, ours = rows(ENGLISH), rows(KOREAN)
    assert [len(row) for row in ours] == [len(row) for row in theirs]
    first = [[row[0] for row in table if row[0].startswith("`")] for table in (theirs, ours)]
    assert first[0] == first[1]
    assert len(first[0]) > 30
    figures = [
        [sorted(re.findall(r"\d[\d.,]*", " ".join(row[1:]))) for row in t] for t in (theirs, ours)
    ]
    assert figures[0] == figures[1]


def test_links_lead_to_the_same_places() -> None:
    assert links(KOREAN) == links(ENGLISH)
    assert "](README.ko.md)" in ENGLISH
    assert "](README.md)" in KOREAN


def test_what_is_typed_is_the_same() -> None:
    assert quoted(KOREAN) == quoted(ENGLISH)


def test_paragraphs_correspond() -> None:
    """Nothing is told in one language alone."""
    shapes = []
    for page in BOTH:
        text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
        parts = [part for part in re.split(r"\n{2,}", text.strip()) if part]
        shapes.append(
            [re.match(r"#+ |- |\||    |<|\*\*", part + " ") is not None for part in parts]
        )
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("ending", ["한다.", "이다.", "하다.", "해요.", "예요."])
def test_korean_has_one_tone(ending: str) -> None:
    """합니다, throughout."""
    assert ending not in KOREAN
