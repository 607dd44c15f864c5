"""The errors that dure tells a user about, and nothing else.

Every message is one line that names the value, the place and the cure.
Anything that is not a `DureError` is a bug of ours and may show its traceback.

    DureError
    ├── UsageError      the caller asked for something that makes no sense
    ├── ModelError      a file is no model, is damaged, or is of a kind we do not know
    ├── CutError        a model cannot be cut in the way that was asked for
    ├── ResourceError   memory, disk or a program that should be installed is missing
    └── EngineError     a rank failed to load, died, or missed a step's deadline
"""

from __future__ import annotations

__all__ = [
    "CutError",
    "DureError",
    "EngineError",
    "ModelError",
    "ResourceError",
    "UsageError",
]


class DureError(Exception):
    """Something a user can mend; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(DureError):
    """The request makes no sense as it was given."""

    exit_code = 2


class ModelError(DureError):
    """A file is no model, is damaged, or is of a kind we do not know."""


class CutError(DureError):
    """A model cannot be cut in the way that was asked for."""


class ResourceError(DureError):
    """Memory, disk space or an installed program is missing."""


class EngineError(DureError):
    """A rank failed to load, died, or missed a step's deadline."""
