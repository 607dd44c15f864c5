"""Models as Hugging Face's `transformers` saves them: a folder of configuration, safetensors and tokenizer.

Knows what such folders hold, as transformers 4 and 5 and other writers lay it out, and what llama.cpp
computes with it. Refuses to know how a GGUF is written, and never opens a pickle.
"""

from __future__ import annotations

from dure.convert.huggingface.chat_template import template_keys
from dure.convert.huggingface.folder import convert_folder, is_folder, name_of

__all__ = ["convert_folder", "is_folder", "name_of", "template_keys"]
