"""Fixtures that several packages' tests use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary

HOSTS = {"cluster", "deploy"}  # packages whose tests make network namespaces of the same names
DEMO = Path(__file__).parents[1] / "models" / "dure-demo.gguf"


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    """The demo model's vocabulary."""
    with open_gguf(DEMO) as gguf:
        vocabulary = Vocabulary(gguf)
        yield vocabulary
        vocabulary.close()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests on one worker of xdist, and all that make hosts on the same one."""
    for item in items:
        package = item.path.parent.name
        group = "hosts" if package in HOSTS else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
