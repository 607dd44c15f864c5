"""Models of Distributed Llama, a pair of files (`.m` and `.t`), on their way into a GGUF, without loss.

Knows both formats: `headers` their keys, `weights` which bytes are which tensor, `tokenizer` the tokens,
`vocabulary` what llama.cpp calls them. Refuses to know who asked.
Source of the formats: Distributed Llama 0.16 `src/llm.cpp`, `src/tokenizer.cpp`, `converter/`.
"""

from __future__ import annotations

from dure.convert.distributed_llama.pair import is_model, name_of, read_pair, tokenizer_beside

__all__ = ["is_model", "name_of", "read_pair", "tokenizer_beside"]
