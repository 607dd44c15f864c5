"""What tests of tuning share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.tuned_bases import write_base


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute on one thread: tiny models are quicker so, and tests beside these are not disturbed."""
    import torch  # other tests of tuning need none

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes a model once."""
    folder, made = tmp_path_factory.mktemp("bases"), dict[str, Path]()

    def path_of(name: str) -> Path:
        if name not in made:
            made[name] = write_base(folder, name)
        return made[name]

    return path_of
