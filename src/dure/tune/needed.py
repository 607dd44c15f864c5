"""Says whether what tuning needs is installed, before any of it is imported."""

from __future__ import annotations

from importlib.util import find_spec

from dure.errors import ResourceError

__all__ = ["check_installed"]

NEEDED = ("torch", "transformers", "peft")


def check_installed(needed: tuple[str, ...] = NEEDED) -> None:
    """Check that packages are there. Raises ResourceError."""
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ResourceError(
            f"`dure tune` needs {' and '.join(missing)}",
            "install what it needs with `pip install 'dure[tune]'`",
        )
