"""Text to tokens and back, as the model's own file defines them.

Knows llama.cpp's vocabulary code and the chat template in the metadata.
Refuses to know weights: only the vocabulary is loaded.
"""

from __future__ import annotations

import ctypes
from functools import cached_property
from pathlib import Path
from typing import Any

from dure.errors import ModelError
from dure.model.cache_shape import cache_shape_of
from dure.model.gguf import GgufFile
from dure.model.llama_log import silence_llama

__all__ = ["Vocabulary"]


class Vocabulary:
    """The tokenizer of one model. Raises ModelError if the file has none.

    keeps_all: the model can go back to any position of a sequence, as far as is known.
    """

    def __init__(self, model: GgufFile) -> None:
        kind = model.str("tokenizer.ggml.model", "")
        if kind in ("", "no_vocab"):
            raise ModelError(
                f"{model.paths[0].name} has no tokenizer (is it a shard, or a file of random "
                "weights?)",
                "name the whole model, or use `dure bench`",
            )
        self._template = model.str("tokenizer.chat_template", "")
        self._tool_template = model.str("tokenizer.chat_template.tool_use", "")
        self._rerank_template = model.str("tokenizer.chat_template.rerank", "")
        self._name = model.paths[0].name
        self.keeps_all = _keeps_all(model)
        self.n_ctx_train = model.int(f"{model.architecture}.context_length", 0)
        self._load(model.paths[0])

    def _load(self, path: Path) -> None:
        import llama_cpp.llama_cpp as lib

        self._lib = lib
        silence_llama()
        params = lib.llama_model_default_params()
        params.vocab_only = True
        no_devices = (ctypes.c_void_p * 1)(None)  # else it would take memory of every GPU
        params.devices = ctypes.addressof(no_devices)
        self._model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise ModelError(
                f"llama.cpp cannot read the tokenizer of {path.name}", "get the file again"
            )
        self._vocabulary = lib.llama_model_get_vocab(self._model)
        self.n_tokens = int(lib.llama_vocab_n_tokens(self._vocabulary))

    @property
    def pointer(self) -> Any:
        """llama.cpp's own `llama_vocab *`, valid until `close`."""
        return self._vocabulary

    @property
    def has_chat_template(self) -> bool:
        """Whether the model says how a conversation is written."""
        return bool(self._template)

    @property
    def name(self) -> str:
        """The model file's name, for errors."""
        return self._name

    def chat_template(self, *, tools: bool = False) -> str:
        """The text of the chat template, "" without one. tools: the one for tools, if there are two."""
        return (tools and self._tool_template) or self._template

    @property
    def bos_text(self) -> str:
        """How the token that begins a text is written, "" without one."""
        return self._text_of("bos")

    @property
    def eos_text(self) -> str:
        """How the token that ends a text is written, "" without one."""
        return self._text_of("eos")

    @property
    def begin(self) -> int | None:
        """The token that every text begins with; None if the model wants none."""
        wanted = self._lib.llama_vocab_get_add_bos(self._vocabulary)
        return int(self._lib.llama_vocab_bos(self._vocabulary)) if wanted else None

    def tokenize(self, text: str, *, special: bool = False, add_bos: bool = True) -> list[int]:
        """The tokens of a text.

        `special`: read names of special tokens as these tokens. `add_bos`: begin as the model wants.
        """
        # llama.cpp aborts the process at some bytes that are no UTF-8: each becomes U+FFFD first.
        data = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
        capacity = len(data) + 8
        while True:
            tokens = (ctypes.c_int32 * capacity)()
            n = self._lib.llama_tokenize(
                self._vocabulary, data, len(data), tokens, capacity, add_bos, special
            )
            if n >= 0:
                return list(tokens[:n])
            capacity = -n

    def pair(self, query: str, document: str) -> list[int]:
        """The tokens of a query and a document as a model that ranks reads them.

        Source: llama-server's `format_prompt_rerank`.
        """
        if self._rerank_template:
            parts = self._rerank_template.replace("{query}", query).replace("{document}", document)
            return self.tokenize(parts, special=True)
        lib, words = self._lib, self._vocabulary
        end_token = lib.llama_vocab_eos(words)
        separator = lib.llama_vocab_sep(words)
        begin = [lib.llama_vocab_bos(words)] if lib.llama_vocab_get_add_bos(words) else []
        end = [end_token if end_token >= 0 else separator]
        end = end if lib.llama_vocab_get_add_eos(words) else []
        between = [separator] if lib.llama_vocab_get_add_sep(words) else []
        asked, found = (self.tokenize(text, add_bos=False) for text in (query, document))
        tokens = [*begin, *asked, *end, *between, *found, *end]
        return [int(token) for token in tokens]

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of a token; part of a character, perhaps. Special tokens are empty unless asked."""
        capacity = 64
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            n = self._lib.llama_token_to_piece(
                self._vocabulary, token, buffer, capacity, 0, special
            )
            if n >= 0:
                return buffer.raw[:n]
            capacity = -n

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Every token that ends an answer."""
        return tuple(token for token in range(self.n_tokens) if self.is_end(token))

    @property
    def opening(self) -> int:
        """The token that a text of the model's own can begin with: that of a beginning, or of an end."""
        of_texts = (self._lib.llama_vocab_bos, self._lib.llama_vocab_eos)
        return next((int(t) for f in of_texts if (t := f(self._vocabulary)) >= 0), 0)

    def is_end(self, token: int) -> bool:
        """Whether the model ends its answer with this token."""
        return bool(self._lib.llama_vocab_is_eog(self._vocabulary, token))

    def accepts_grammar(self, gbnf: str, root: str = "root") -> bool:
        """Whether llama.cpp can follow a GBNF grammar. Bound its size and nesting before you ask."""
        sampler = self._lib.llama_sampler_init_grammar(
            self._vocabulary, gbnf.encode(), root.encode()
        )
        if not sampler:
            return False
        self._lib.llama_sampler_free(sampler)
        return True

    def _text_of(self, which: str) -> str:
        token = getattr(self._lib, f"llama_vocab_{which}")(self._vocabulary)
        return self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def close(self) -> None:
        """Free the vocabulary."""
        if self._model:
            self._lib.llama_model_free(self._model)
            self._model = None


def _keeps_all(model: GgufFile) -> bool:
    try:
        return cache_shape_of(model).keeps_all
    except ModelError:
        return True
