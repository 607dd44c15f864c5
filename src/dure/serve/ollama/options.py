"""Makes the sampling of an answer from Ollama's map of options.

Knows every option of Ollama's that is used.
Refuses to know conversations and HTTP.
"""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import Field

from dure.generate.request import Sampling
from dure.http.request_model import BodyPart

__all__ = ["Options", "limit_of", "sampling_of", "stops_of"]

INT32 = 2**31 - 1


class Options(BodyPart):
    """What holds for one answer.

    num_predict of 0 or less is no limit. num_ctx shortens texts to embed, and nothing else.
    """

    REFUSES_MISSPELLED = True

    temperature: float | None = Field(default=None, ge=0)
    top_k: int | None = Field(default=None, ge=-1, le=INT32)
    top_p: float | None = Field(default=None, ge=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    typical_p: float | None = Field(default=None, ge=0, le=1)
    repeat_penalty: float | None = Field(default=None, ge=0)
    repeat_last_n: int | None = Field(default=None, ge=-1, le=INT32)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    mirostat: int | None = Field(default=None, ge=0, le=2)
    mirostat_tau: float | None = Field(default=None, ge=0)
    mirostat_eta: float | None = Field(default=None, ge=0)
    seed: int | None = Field(default=None, ge=-1, le=2**63 - 1)
    stop: str | list[str] | None = None
    num_predict: int | None = Field(default=None, ge=-2, le=INT32)
    num_ctx: int | None = Field(default=None, ge=1, le=INT32)


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


def sampling_of(options: Options | None, defaults: Sampling) -> Sampling:
    """Return how tokens are sampled; `defaults` hold if the options say nothing."""
    if options is None:
        return defaults
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
