"""dure: one large language model across the machines you own.

    import dure

    with dure.open("qwen3:0.6b", ranks=2) as model:
        print(model.chat("Who sent you to the field?"))

Everything is imported when it is first used: importing `dure` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dure.chat.task import TokenLogprob
    from dure.errors import (
        ClusterError,
        ContextError,
        CutError,
        DureError,
        EngineError,
        ModelError,
        ParameterError,
        ResourceError,
        UsageError,
    )
    from dure.generate.request import Timings
    from dure.library.answers import Answer, CallOfTool, Piece
    from dure.library.model import Model
    from dure.library.opening import open_model as open  # noqa: A004  # as dure.open
    from dure.library.stream import AnswerStream

    __version__: str

__all__ = [
    "Answer",
    "AnswerStream",
    "CallOfTool",
    "ClusterError",
    "ContextError",
    "CutError",
    "DureError",
    "EngineError",
    "Model",
    "ModelError",
    "ParameterError",
    "Piece",
    "ResourceError",
    "Timings",
    "TokenLogprob",
    "UsageError",
    "__version__",
    "open",
]

_PLACES = {
    "Answer": "library.answers",
    "AnswerStream": "library.stream",
    "CallOfTool": "library.answers",
    "Model": "library.model",
    "Piece": "library.answers",
    "Timings": "generate.request",
    "TokenLogprob": "chat.task",
}


def __getattr__(name: str) -> Any:
    """Return a public name, imported now."""
    if name == "__version__":
        from importlib.metadata import version

        return version("dure")
    if name == "open":
        from dure.library.opening import open_model

        return open_model
    if name not in __all__:
        raise AttributeError(f"module 'dure' has no attribute {name!r}")
    return getattr(import_module(f"dure.{_PLACES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
