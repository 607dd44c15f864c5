"""Fixtures that several packages' tests use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

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


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]  # published without types
    """Keeps a file's tests on one worker, and all that make hosts on the same one.

    xdist's own groups (3.8) are names that it appends to tests' ids, which pytest 9.2 does not see.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "hosts" if Path(file).parent.name in HOSTS else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Tell xdist which tests stay together."""
    return _ByFile(config, log)
