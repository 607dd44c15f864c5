"""What a model keeps of a sequence: of all its positions, of the last ones, or a state that runs along.

Knows which layers llama.cpp gives what, from a file's header. Refuses to know bytes, contexts and machines.
Source: llama.cpp `src/models/*.cpp` (`load_arch_hparams`), `llama-hparams.cpp`, `llama-model.cpp`
(`create_memory`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from dure.errors import ModelError
from dure.model.gguf import GgufFile, once_per_model

__all__ = ["CacheShape", "cache_shape_of"]


@dataclass(frozen=True)
class CacheShape:
    """Numbers that a model keeps of one sequence.

    values: 16-bit floats of each position, in layers that see all positions.
    window_values: 16-bit floats of each of the last n_window positions, in layers that see no others.
    state_values: 32-bit floats of the running state, whatever the length.
    """

    values: int
    window_values: int = 0
    n_window: int = 0
    state_values: int = 0

    @property
    def keeps_all(self) -> bool:
        """Tell whether a sequence can be cut back to any of its positions."""
        return not (self.window_values or self.state_values)

    def of_heads(self, n: int, n_all: int) -> CacheShape:
        """Return what a rank keeps that has n of n_all KV heads."""
        return replace(
            self,
            values=self.values * n // n_all,
            window_values=self.window_values * n // n_all,
        )


@dataclass(frozen=True)
class _Pattern:
    """Which layers see a window: of every `period` all but the last one, or but the first."""

    period: int
    dense_first: bool = False
    default: int = 0  # the window if the file has none
    fixed: int = 0  # the window, whatever the file says

    def slides(self, layer: int) -> bool:
        place = layer % self.period
        return place != 0 if self.dense_first else place < self.period - 1


_PATTERNS = {
    "afmoe": _Pattern(4),
    "cohere2": _Pattern(4),
    "cohere2moe": _Pattern(4, dense_first=True),
    "exaone-moe": _Pattern(4, default=128),
    "exaone4": _Pattern(4, default=4096),
    "gemma2": _Pattern(2, default=4096),
    "gemma3": _Pattern(6),
    "gemma3n": _Pattern(5),
    "gpt-oss": _Pattern(2),
    "laguna": _Pattern(4, dense_first=True),
    "llama4": _Pattern(4, fixed=8192),
    "mellum": _Pattern(4),
    "olmo2": _Pattern(4),
    "plamo3": _Pattern(8),
    "smallthinker": _Pattern(4, dense_first=True, fixed=4096),
}
_LISTED = {"gemma4", "granite_swa", "mimo2", "step35"}  # their files list the layers
_ALL_SLIDE = {"lfm2"}  # all attention, if the file has a window
_WINDOWED_N_LAYER = {"exaone4": 64}  # its smaller models have no window
_NO_ATTENTION = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
_BOTH = {"falcon-h1"}  # each layer has attention and a state
_INTERVALS = {"qwen3next", "qwen35", "qwen35moe"}  # attention in every n-th layer
_N_LAYER_WITH_KV = {"gemma3n": 20}  # later layers look into theirs


@once_per_model
def cache_shape_of(model: GgufFile) -> CacheShape:
    """Read what a model keeps. Raises ModelError if its header does not say enough."""
    return _Header(model).cache_shape()


class _Header:
    """What a header says of each layer."""

    def __init__(self, model: GgufFile) -> None:
        self._model, self._arch = model, model.architecture
        self._n_layer = self._int("block_count") - self._int("nextn_predict_layers", 0)
        self._n_embd = self._int("embedding_length")

    def cache_shape(self) -> CacheShape:
        slides, n_window = self._window()
        has_state = self._has_state()
        full = window = 0
        for layer in range(self._n_layer_with_kv()):
            if self._arch in _NO_ATTENTION or (has_state(layer) and self._arch not in _BOTH):
                continue
            if slides(layer):
                window += self._kv_values(layer, "_swa")
            else:
                full += self._kv_values(layer, "")
        states = sum(map(has_state, range(self._n_layer))) * self._state_values()
        return CacheShape(full, window, n_window if window else 0, states)

    def _kv_values(self, layer: int, suffix: str) -> int:
        """Return the numbers of a position in a layer's keys and values."""
        n_head = self._of_layer("attention.head_count", layer)
        n_head_kv = self._of_layer("attention.head_count_kv", layer, n_head)
        if not n_head_kv:
            return 0
        n_default = self._n_embd // n_head if n_head else 0
        key = self._length("key", suffix, n_default)
        if self._int("attention.key_length_mla", 0) and self._int("attention.value_length_mla", 0):
            return n_head_kv * key  # values are a part of the keys
        return n_head_kv * (key + self._length("value", suffix, n_default))

    def _length(self, of: str, suffix: str, default: int) -> int:
        whole = self._int(f"attention.{of}_length", default)
        return self._int(f"attention.{of}_length{suffix}", whole)

    def _n_layer_with_kv(self) -> int:
        n_shared = self._int("attention.shared_kv_layers", 0) if self._arch == "gemma4" else 0
        return min(self._n_layer - n_shared, _N_LAYER_WITH_KV.get(self._arch, self._n_layer))

    # ------------------------------------------------------------ windows

    def _window(self) -> tuple[Callable[[int], bool], int]:
        """Return which layers see a window, and how many positions that has."""
        pattern = _PATTERNS.get(self._arch, _Pattern(1))
        n = self._int("attention.sliding_window", pattern.default)
        if self._arch == "llama4" and self._value("attention.sliding_window") is None:
            n = pattern.fixed
        known = self._arch in _PATTERNS or self._arch in _LISTED | _ALL_SLIDE
        if not n or not known or self._n_layer != _WINDOWED_N_LAYER.get(self._arch, self._n_layer):
            return lambda _: False, 0
        if self._arch in _ALL_SLIDE:
            return lambda _: True, n
        listed = self._value("attention.sliding_window_pattern")
        if isinstance(listed, list):
            return lambda layer: layer < len(listed) and bool(listed[layer]), n
        if isinstance(listed, int):
            pattern = replace(pattern, period=max(1, listed))
        return pattern.slides, pattern.fixed or n

    # ------------------------------------------------------------ running states

    def _has_state(self) -> Callable[[int], bool]:
        """Return which layers have a running state."""
        if self._arch in _NO_ATTENTION | _BOTH:
            return lambda _: True
        if self._arch in _INTERVALS:
            listed = self._value("attention.recurrent_layers")
            if isinstance(listed, list):
                return lambda layer: layer < len(listed) and bool(listed[layer])
            interval = max(1, self._int("full_attention_interval", 4))
            return lambda layer: (layer + 1) % interval != 0
        if not self._state_values():
            return lambda _: False
        return self._is_without_heads

    def _is_without_heads(self, layer: int) -> bool:
        is_ffn = self._arch.startswith("nemotron_h") and self._of_layer(
            "feed_forward_length", layer
        )
        return not self._of_layer("attention.head_count_kv", layer) and not is_ffn

    def _state_values(self) -> int:
        """Return the numbers of a layer's state: llama.cpp's n_embd_r + n_embd_s."""
        n_embd = self._n_embd
        if head := self._int("wkv.head_size", 0):
            return n_embd * (self._int("token_shift_count", 2) + head)
        inner, size = self._int("ssm.inner_size", 0), self._int("ssm.state_size", 0)
        if n_kept := self._int("shortconv.l_cache", 0):
            return n_embd * (n_kept - 1) + inner * size
        n_kept = max(0, self._int("ssm.conv_kernel", 0) - 1)
        if head := self._int("kda.head_dim", 0):
            n_head = self._of_layer("attention.head_count", 0)
            return 3 * (n_kept or 3) * n_head * head + head * head * n_head
        return n_kept * (inner + 2 * self._int("ssm.group_count", 0) * size) + inner * size

    # ------------------------------------------------------------ values

    def _value(self, key: str) -> Any:
        value = self._model.metadata.get(f"{self._arch}.{key}")
        return None if value is None else value.value

    def _int(self, key: str, default: int | None = None) -> int:
        """Read a whole number that is not below 0."""
        return self._checked(key, self._model.int(f"{self._arch}.{key}", default))

    def _of_layer(self, key: str, layer: int, default: int | None = None) -> int:
        """Read a number that each layer has of its own, or all have in common."""
        value = self._value(key)
        if not isinstance(value, list):
            return self._int(key, default)
        if layer >= len(value) or not isinstance(value[layer], int):
            raise ModelError(
                f"{self._model.paths[0].name}: {self._arch}.{key} says nothing of layer {layer}",
                "its header is damaged, get the file again",
            )
        return self._checked(key, value[layer])

    def _checked(self, key: str, number: int) -> int:
        if number < 0:
            raise ModelError(
                f"{self._model.paths[0].name}: {self._arch}.{key} is {number}",
                "its header is damaged, get the file again",
            )
        return number
