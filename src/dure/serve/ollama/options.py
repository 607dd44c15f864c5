"""Makes the sampling of an answer from Ollama's map of options.

Knows every option of Ollama's, and which only the start of a server can set.
Refuses to know conversations and HTTP.
"""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import Field

from dure.errors import UsageError
from dure.generate.request import Sampling
from dure.http.body import StrictModel

__all__ = ["Options", "limit_of", "sampling_of", "stops_of"]

INT32 = 2**31 - 1


class Options(StrictModel):
    """What holds for one answer.

    num_predict of 0 or less is no limit. num_ctx may be less than the server's context, never more.
    num_keep is about a context that is shifted when it is full; an answer ends there instead.
    The last groups are set when the model is loaded; only values that change nothing are accepted.
    """

    temperature: float | None = Field(default=None, ge=0)
    top_k: int | None = Field(default=None, ge=-1, le=INT32)
    top_p: float | None = Field(default=None, ge=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    typical_p: float | None = Field(default=None, ge=0, le=1)
    tfs_z: float | None = None
    repeat_penalty: float | None = Field(default=None, ge=0)
    repeat_last_n: int | None = Field(default=None, ge=-1, le=INT32)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalize_newline: bool | None = None
    mirostat: int | None = Field(default=None, ge=0, le=2)
    mirostat_tau: float | None = Field(default=None, ge=0)
    mirostat_eta: float | None = Field(default=None, ge=0)
    seed: int | None = Field(default=None, ge=-1, le=2**63 - 1)
    stop: str | list[str] | None = None
    num_predict: int | None = Field(default=None, ge=-2, le=INT32)
    num_ctx: int | None = Field(default=None, ge=1, le=INT32)
    num_keep: int | None = Field(default=None, ge=-1, le=INT32)

    num_batch: Any = None
    num_gpu: Any = None
    main_gpu: Any = None
    num_thread: Any = None
    numa: Any = None
    low_vram: Any = None
    f16_kv: Any = None
    use_mmap: Any = None
    use_mlock: Any = None
    vocab_only: Any = None
    logits_all: Any = None
    embedding_only: Any = None


_SAMPLING = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
)
_AT_START = ("num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap", "use_mlock")
_ONLY_FALSE = ("numa", "low_vram", "vocab_only", "logits_all", "embedding_only")


def sampling_of(options: Options | None, defaults: Sampling, n_ctx: int) -> Sampling:
    """Return how tokens are sampled; `defaults` hold if the options say nothing.

    n_ctx: the server's context. Raises UsageError naming what cannot be honoured.
    """
    if options is None:
        return defaults
    _refuse(options, n_ctx)
    given: dict[str, Any] = {
        name: value for name in _SAMPLING if (value := getattr(options, name)) is not None
    }
    if options.top_k is not None:
        given["top_k"] = max(options.top_k, 0)
    if options.seed is not None:
        given["seed"] = None if options.seed == -1 else options.seed
    return msgspec.structs.replace(defaults, **given)


def limit_of(options: Options | None) -> int | None:
    """Return the limit of an answer's tokens, None without one."""
    limit = options.num_predict if options else None
    return limit if limit and limit > 0 else None


def stops_of(options: Options | None) -> tuple[str, ...]:
    """Return the texts that end the answer."""
    stop = options.stop if options else None
    return tuple(text for text in ([stop] if isinstance(stop, str) else stop or ()) if text)


def _refuse(options: Options, n_ctx: int) -> None:
    if options.num_ctx is not None and options.num_ctx > n_ctx:
        raise UsageError(
            f"options.num_ctx {options.num_ctx} is more than this server's context of {n_ctx} tokens",
            "ask for less, or start it with a larger context",
        )
    if options.tfs_z not in (None, 1.0):
        raise UsageError("options.tfs_z is not supported", "use min_p or top_p")
    if options.penalize_newline is False:
        raise UsageError("options.penalize_newline false is not supported", "leave it out")
    if options.f16_kv not in (None, True):
        raise UsageError("options.f16_kv is settled when the model is loaded", "leave it out")
    for name in _AT_START:
        if getattr(options, name) is not None:
            raise UsageError(f"options.{name} is settled when the model is loaded", "leave it out")
    for name in _ONLY_FALSE:
        if getattr(options, name) not in (None, False):
            raise UsageError(f"options.{name} is not supported", "leave it out")
