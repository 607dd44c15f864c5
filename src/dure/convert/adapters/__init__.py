"""LoRA adapters as `peft` saves them, as a GGUF adapter for llama.cpp or folded into their model.

Knows peft's configuration, names and layouts. Refuses to know how an adapter is run. A method that
llama.cpp does not compute (DoRA and others) is refused by its name.
"""

from __future__ import annotations

from dure.convert.adapters.base import base_of, gguf_model
from dure.convert.adapters.folder import is_adapter, opened_adapter
from dure.convert.adapters.gguf_adapter import adapter_model
from dure.convert.adapters.merge import merged_model, requantized

__all__ = [
    "adapter_model",
    "base_of",
    "gguf_model",
    "is_adapter",
    "merged_model",
    "opened_adapter",
    "requantized",
]
