"""How sizes are written: in the unit that fits, and so that unlike ones look unlike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dure.sizes import bytes_text, compared

SOURCE = Path(__file__).parents[2] / "src"


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (7_400_000, "7.4 MB"),
        (-2_500_000_000, "-2.5 GB"),
        (3_000_000_000_000_000, "3000.0 TB"),
    ],
)
def test_a_size_has_the_unit_that_fits(n: float, text: str) -> None:
    """Never 0.0 of a unit that is too large, nor 1000.0 of one that is too small."""
    assert bytes_text(n) == text


@pytest.mark.parametrize(
    ("one", "other", "texts"),
    [
        (4_000_000_000, 7_000_000, ("4.0 GB", "7.0 MB")),
        (4_012_000_000, 4_013_000_000, ("4.012 GB", "4.013 GB")),
        (1_000_000_000_001, 1_000_000_000_000, ("1.000000000001 TB", "1.000000000000 TB")),
        (5, 5, ("5 B", "5 B")),
    ],
)
def test_sizes_that_are_compared_look_unlike(
    one: float, other: float, texts: tuple[str, str]
) -> None:
    """With as many decimals as it takes, down to a byte."""
    assert tuple(text[:24] for text in compared(one, other)) == texts


def test_no_other_place_writes_sizes() -> None:
    """A message that divides by itself writes 0.0 GB of something small."""
    own = re.compile(r"/ 1e\d:[^}]*} [kMGT]B\b(?!/s)")
    found = [str(path) for path in SOURCE.rglob("*.py") if own.search(path.read_text())]
    assert found == []
