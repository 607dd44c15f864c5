"""Writes the parts of these pages that come from the program: `make docs`.

A part stands between two comments, `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from dure.worker.lifecycle import diagram

PARTS: Mapping[str, tuple[str, Callable[[], str]]] = {"lifecycle": ("architecture.md", diagram)}
"""By name: the page, and what makes the part."""


def renewed(page: str, name: str, part: str) -> str:
    """A page's text with one part as it is now. Raises ValueError where the page has no place for it."""
    begin, end = f"<!-- generated: {name} -->\n", "\n<!-- end -->"
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    text, n = re.subn(pattern, lambda _: begin + part + end, page, flags=re.DOTALL)
    if n != 1:
        raise ValueError(f"the page has {n} places for {name} instead of one")
    return text


def main() -> None:
    """Write every part anew."""
    for name, (file, make) in PARTS.items():
        path = Path(__file__).parent / file
        path.write_text(renewed(path.read_text(), name, make()))


if __name__ == "__main__":
    main()
