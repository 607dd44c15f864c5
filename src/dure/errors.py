"""The errors that dure reports to a user, and nothing else.

An error has a problem, which names the value and the place, and a cure; its text is both, on one line.
It crosses a process as an `ErrorRecord` and comes back as the same error, with every field.
Anything that is not a `DureError` is a bug of ours and may show its traceback.

    DureError
    ├── UsageError      the caller asked for something that makes no sense
    │   ├── ParameterError  one named parameter of a request makes no sense
    │   └── ContextError    a prompt is longer than the context
    ├── ModelError      a file is no model, is damaged, or is of a kind we do not know
    ├── CutError        a model cannot be cut in the way that was asked for
    ├── ResourceError   memory, disk or a program that should be installed is missing
    │   └── GpuMemoryError  a GPU's memory is short, so that fewer layers may fit
    ├── ClusterError    a machine of the cluster cannot be reached, trusted or used
    ├── EngineError     a rank failed to load, died, or missed a step's deadline
    ├── BusyError       too many requests wait already
    └── NotReadyError   the model is not loaded yet, or the server is stopping
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "BusyError",
    "ClusterError",
    "ContextError",
    "CutError",
    "DureError",
    "EngineError",
    "ErrorRecord",
    "GpuMemoryError",
    "ModelError",
    "NotReadyError",
    "ParameterError",
    "ResourceError",
    "UsageError",
    "context_error",
    "revived",
]


@dataclass(frozen=True)
class ErrorRecord:
    """An error as it crosses a process: the name of its class, and what it was made of."""

    kind: str
    problem: str
    cure: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """The error's text: its problem and its cure."""
        return f"{self.problem}: {self.cure}" if self.cure else self.problem


class DureError(Exception):
    """Something a user can mend.

    problem: what is wrong, with the value and the place. cure: what to do about it; "" if the problem
    says that already. facts: more fields of a subclass, JSON values. `exit_code` is what the command
    line returns.
    """

    exit_code = 1

    def __init__(self, problem: str, cure: str = "", **facts: Any) -> None:
        super().__init__(problem, cure)
        self.problem, self.cure, self._facts = problem, cure, facts

    def __str__(self) -> str:
        return self.record().message

    def record(self) -> ErrorRecord:
        """Return what another process needs to raise the same error."""
        return ErrorRecord(type(self).__name__, self.problem, self.cure, self._facts)


class UsageError(DureError):
    """The request makes no sense as it was given."""

    exit_code = 2


class ParameterError(UsageError):
    """A parameter of a request makes no sense, or is one we do not have."""

    def __init__(self, param: str, problem: str, cure: str = "") -> None:
        super().__init__(problem, cure, param=param)
        self.param = param


class ContextError(UsageError):
    """A prompt is longer than the context: n_prompt tokens, where n_ctx is the limit."""

    def __init__(self, problem: str, cure: str = "", *, n_prompt: int = 0, n_ctx: int = 0) -> None:
        super().__init__(problem, cure, n_prompt=n_prompt, n_ctx=n_ctx)
        self.n_prompt, self.n_ctx = n_prompt, n_ctx


class ModelError(DureError):
    """A file is no model, is damaged, or is of a kind we do not know."""


class CutError(DureError):
    """A model cannot be cut in the way that was asked for."""


class ResourceError(DureError):
    """Memory, disk space or an installed program is missing."""


class GpuMemoryError(ResourceError):
    """A GPU's memory is short: fewer layers may fit."""


class ClusterError(DureError):
    """A machine of the cluster cannot be reached, trusted or used."""


class EngineError(DureError):
    """A rank failed to load, died, or missed a step's deadline."""


class BusyError(DureError):
    """Too many requests wait already: try again after retry_after_s seconds."""

    def __init__(self, problem: str, cure: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(problem, cure, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class NotReadyError(DureError):
    """The model is not loaded yet (progress: how far, 0 to 1), or the server is stopping."""

    def __init__(self, problem: str, cure: str = "", *, progress: float = 0.0) -> None:
        super().__init__(problem, cure, progress=progress)
        self.progress = progress


def context_error(
    n_prompt: int,
    n_ctx: int,
    cure: str = "shorten it, or use a larger --ctx if the model allows it",
) -> ContextError:
    """Return the error of a prompt of n_prompt tokens that leaves no room in a context of n_ctx.

    Clients recognize this sentence, which is Anthropic's: Claude Code then shortens the conversation,
    LangChain and LiteLLM raise the error that they have for it.
    """
    most = min(n_ctx, n_prompt - 1)  # a prompt that fills the context leaves no room for an answer
    return ContextError(
        f"the prompt is too long: {n_prompt} tokens > {most} maximum",
        cure,
        n_prompt=n_prompt,
        n_ctx=n_ctx,
    )


def revived(record: ErrorRecord) -> DureError:
    """Return the error that a record was made from; an EngineError if its class is not known here."""
    kind = next((k for k in _subclasses(DureError) if k.__name__ == record.kind), EngineError)
    facts: dict[str, Any] = dict(record.facts)
    return kind(problem=record.problem, cure=record.cure, **facts)


def _subclasses(kind: type[DureError]) -> Iterator[type[DureError]]:
    yield kind
    for sub in kind.__subclasses__():
        yield from _subclasses(sub)
