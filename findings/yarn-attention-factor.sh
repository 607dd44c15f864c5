#!/bin/sh
# llama.cpp does not use the attention factor of YaRN under the name by which its converter writes it.
#
# llama.cpp's own converter writes a model's factor as rope.scaling.yarn_attn_factor. The loader reads that key,
# and then computes the factor anew; only rope.scaling.attn_factor, which the converter writes for other
# kinds of scaling, changes what a model computes. So a model whose factor is not the usual one attends otherwise
# than it was trained to, and nothing says so.
#
# Exits 0 while this is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet llama-cpp-python==0.3.36 gguf==0.19.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import ctypes
import sys

import gguf
import llama_cpp
import numpy as np

WIDTH, HEADS, HEAD, TOKENS, FACTOR = 64, 4, 16, 100, 1.3


def logits(name):
    """Return what a small random model gives; name: of the key that holds the factor, if any does."""
    path = f"{sys.argv[1]}/model.gguf"
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(TOKENS)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(32)
    if name:
        writer.add_float32(f"qwen3.rope.scaling.{name}", FACTOR)
    random = np.random.default_rng(1)
    shapes = {"token_embd": (TOKENS, WIDTH), "output": (TOKENS, WIDTH), "output_norm": (WIDTH,)}
    shapes |= {f"blk.0.{n}": (WIDTH, WIDTH) for n in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {f"blk.0.{n}": (WIDTH, WIDTH) for n in ("ffn_gate", "ffn_up", "ffn_down")}
    shapes |= {f"blk.0.{n}": (WIDTH,) for n in ("attn_norm", "ffn_norm")}
    shapes |= {f"blk.0.{n}": (HEAD,) for n in ("attn_q_norm", "attn_k_norm")}
    for tensor, shape in shapes.items():
        values = random.normal(size=shape) / 4 if len(shape) > 1 else np.full(shape, 2.0)
        writer.add_tensor(f"{tensor}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = llama_cpp.llama_model_load_from_file(
        path.encode(), llama_cpp.llama_model_default_params()
    )
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = 128
    context = llama_cpp.llama_init_from_model(model, parameters)
    tokens = (llama_cpp.llama_token * 40)(*range(40))
    assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, 40)) == 0
    found = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (TOKENS,)).copy()
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return found


silent = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
without = logits("")
by_converter, other = (
    float(abs(logits(name) - without).max()) for name in ("yarn_attn_factor", "attn_factor")
)
print(f"llama-cpp-python {llama_cpp.__version__}, a random Qwen3 with YaRN; a factor of {FACTOR} changes logits by")
print(f"    {by_converter:.3f} as rope.scaling.yarn_attn_factor, {other:.3f} as rope.scaling.attn_factor")
if by_converter == 0 and other > 0.01:
    print("the first key is read and not used")
else:
    print("this has changed")
    sys.exit(1)
PYTHON
