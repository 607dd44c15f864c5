"""The errors that dure tells a user about, and nothing else.

Every message is one line that names the value, the place and the cure.
Anything that is not a `DureError` is a bug of ours and may show its traceback.

    DureError
    ├── UsageError      the caller asked for something that makes no sense
    │   └── ContextError    a prompt is longer than the context
    ├── ModelError      a file is no model, is damaged, or is of a kind we do not know
    ├── CutError        a model cannot be cut in the way that was asked for
    ├── ResourceError   memory, disk or a program that should be installed is missing
    ├── ClusterError    a machine of the cluster cannot be reached, trusted or used
    ├── EngineError     a rank failed to load, died, or missed a step's deadline
    ├── BusyError       too many requests wait already
    └── NotReadyError   the model is not loaded yet, or the server is stopping
"""

from __future__ import annotations

__all__ = [
    "BusyError",
    "ClusterError",
    "ContextError",
    "CutError",
    "DureError",
    "EngineError",
    "ModelError",
    "NotReadyError",
    "ResourceError",
    "UsageError",
]


class DureError(Exception):
    """Something a user can mend; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(DureError):
    """The request makes no sense as it was given."""

    exit_code = 2


class ContextError(UsageError):
    """A prompt is longer than the context: n_prompt tokens, where n_ctx is the limit."""

    def __init__(self, message: str, n_prompt: int = 0, n_ctx: int = 0) -> None:
        super().__init__(message)
        self.n_prompt, self.n_ctx = n_prompt, n_ctx


class ModelError(DureError):
    """A file is no model, is damaged, or is of a kind we do not know."""


class CutError(DureError):
    """A model cannot be cut in the way that was asked for."""


class ResourceError(DureError):
    """Memory, disk space or an installed program is missing."""


class ClusterError(DureError):
    """A machine of the cluster cannot be reached, trusted or used."""


class EngineError(DureError):
    """A rank failed to load, died, or missed a step's deadline."""


class BusyError(DureError):
    """Too many requests wait already: try again after retry_after_s seconds."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReadyError(DureError):
    """The model is not loaded yet (progress: how far, 0 to 1), or the server is stopping."""

    def __init__(self, message: str, progress: float = 0.0) -> None:
        super().__init__(message)
        self.progress = progress
