"""docs/clients.md says of which versions it speaks: those that are installed here."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PINNED = ROOT / "tests" / "clients" / "pinned"
OURS = {"anthropic", "ollama", "openai"}  # installed with what the other tests need


def versions() -> set[str]:
    """Return every version that is pinned."""
    lines = [path.read_text().strip() for path in sorted(PINNED.glob("*.txt"))]
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    lines += [one for one in groups["test"] if re.split("[=<>]", one)[0] in OURS]
    packages = json.loads((PINNED / "package.json").read_text())["dependencies"]
    return {line.partition("==")[2] for line in lines} | set(packages.values())


def test_the_versions_that_the_docs_name_are_those_that_run() -> None:
    table = (ROOT / "docs" / "clients.md").read_text().partition("\n## ")[0]
    recorded = {"0.12.4"}  # Open WebUI
    assert (
        set(re.findall(r"\d+\.\d+[\d.]*\d", table.partition("|---|")[2])) == versions() | recorded
    )
