#!/bin/sh
# llama.cpp's pre-tokenizer "gpt-4o", which gpt-oss's GGUFs name, cuts a word before a combining mark.
#
# The vocabulary's own pattern (o200k, as tiktoken publishes it) takes letters and marks together, so the Hindi
# syllable "hi", a consonant and a vowel sign, can be one token. llama.cpp's reading of the same pattern ends
# the word before the sign, and no merge across that border is ever applied: the text is right, but it is in
# other and more tokens than the model was trained with. "granite-embed-multi-97m" has the same pattern and keeps
# them together.
#
# Exits 0 while this is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet llama-cpp-python==0.3.36 gguf==0.19.0 tokenizers==0.22.1 tiktoken==0.12.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import ctypes
import inspect
import re
import sys

import gguf
import llama_cpp
import tiktoken_ext.openai_public as published
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

CONSONANT, SIGN = "\u0939", "\u093f"
TEXT = CONSONANT + SIGN


def written(data):
    """Return bytes as byte-level vocabularies write them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    table = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return "".join(table[b] for b in data)


first, second = CONSONANT.encode(), SIGN.encode()
pairs = [(first[:1], first[1:2]), (first[:2], first[2:]), (second[:2], second[2:]), (first, second)]
merges = [(written(a), written(b)) for a, b in pairs]
tokens = [written(bytes([b])) for b in range(256)] + [a + b for a, b in merges]


def by_llama(pre):
    """Tokenize with llama.cpp and a pre-tokenizer of this name."""
    path = f"{sys.argv[1]}/{pre}.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
    vocabulary, found = llama_cpp.llama_model_get_vocab(model), (llama_cpp.llama_token * 16)()
    data = TEXT.encode()
    n = llama_cpp.llama_tokenize(vocabulary, data, len(data), found, 16, False, False)
    return [tokens[token] for token in found[:n]]


silent = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
# The pattern of o200k_base stands in the function that would also download its tokens.
pattern = "|".join(re.findall(r'r"""(.*)"""', inspect.getsource(published.o200k_base)))
whole = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
whole.pre_tokenizer = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
right, there = whole.encode(TEXT).tokens, by_llama("gpt-4o")
other = by_llama("granite-embed-multi-97m")
print(f"llama-cpp-python {llama_cpp.__version__}, o200k's pattern of tiktoken, a syllable of two characters")
print(f"    the pattern itself: {len(right)} token; gpt-4o: {len(there)}; granite-embed-multi-97m: {len(other)}")
if right == other and len(there) > len(right):
    print("gpt-4o cuts before the mark")
else:
    print("this has changed")
    sys.exit(1)
PYTHON
