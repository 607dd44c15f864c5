"""What a model's file says of its sampling: `general.sampling.*`, as llama.cpp's converter writes it.

Knows the keys and the parameters that they are. Refuses to know who else has a say: a request, a command.
Source: llama.cpp `common_init_sampler_from_model`.
"""

from __future__ import annotations

from collections.abc import Iterator

from dure.errors import UsageError
from dure.generate.request import Sampling
from dure.model.gguf import GgufFile

__all__ = ["file_sampling"]

_WHOLE = {
    "top_k": "top_k",
    "penalty_last_n": "repeat_last_n",
    "mirostat": "mirostat",
}
_FRACTION = {
    "temp": "temperature",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "penalty_repeat": "repeat_penalty",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}


_MOST = 2**31


def file_sampling(model: GgufFile) -> dict[str, int | float]:
    """Return the fields of `Sampling` that the file sets. A value that makes no sense counts as absent.

    `general.sampling.sequence` is not read: the order of dure's filters is fixed.
    """
    return {name: value for name, value in _given(model) if _makes_sense(name, value)}


def _given(model: GgufFile) -> Iterator[tuple[str, int | float]]:
    for key, name in {**_WHOLE, **_FRACTION}.items():
        value = model.metadata.get(f"general.sampling.{key}")
        number = value.value if value is not None else None
        if not isinstance(number, int | float) or isinstance(number, bool):
            continue
        if not abs(number) < _MOST:  # infinite or no number, among others
            continue
        if name not in _WHOLE.values():
            yield name, float(f"{number:.7g}")  # 0.6 as float32 is 0.60000002
        elif number == int(number):
            yield name, max(0, int(number)) if name == "top_k" else int(number)


def _makes_sense(name: str, value: float) -> bool:
    try:
        Sampling(**{name: value})  # type: ignore[arg-type]  # its fields are numbers
    except UsageError:
        return False
    return True
