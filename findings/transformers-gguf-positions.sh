#!/bin/sh
# transformers reads a GGUF without what stretches its positions, and says nothing.
#
# Llama 3.1 and later have the stretched frequencies of RoPE in a tensor, rope_freqs.weight; models with YaRN or
# linear scaling have rope.scaling.* in the metadata. llama.cpp computes with both. `from_pretrained` with
# gguf_file takes neither: the model that it returns is another one, which shows only in its answers.
# So a GGUF that is brought back to torch this way is tuned, or judged, with other positions than it is served with.
#
# Exits 0 while this is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 gguf==0.19.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import gguf
import numpy as np
import torch
import transformers

WIDTH, HEADS, HEAD, TOKENS = 64, 4, 16, 100


def model_of(kind, factors=None, scaling=False):
    """Return a small random model that was written as a GGUF, as transformers reads it."""
    name = f"{kind}-{factors is not None}-{scaling}.gguf"
    writer = gguf.GGUFWriter(f"{sys.argv[1]}/{name}", kind)
    writer.add_vocab_size(TOKENS)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(32)
    random = np.random.default_rng(1)
    shapes = {"token_embd": (TOKENS, WIDTH), "output": (TOKENS, WIDTH), "output_norm": (WIDTH,)}
    shapes |= {f"blk.0.{n}": (WIDTH, WIDTH) for n in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {f"blk.0.{n}": (WIDTH, WIDTH) for n in ("ffn_gate", "ffn_up", "ffn_down")}
    shapes |= {f"blk.0.{n}": (WIDTH,) for n in ("attn_norm", "ffn_norm")}
    for tensor, shape in shapes.items():
        values = random.normal(size=shape) / 4 if len(shape) > 1 else np.full(shape, 2.0)
        writer.add_tensor(f"{tensor}.weight", values.astype(np.float32))
    if kind == "qwen2":
        for part in "qkv":
            writer.add_tensor(f"blk.0.attn_{part}.bias", np.zeros(WIDTH, np.float32))
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], gguf_file=name)


def logits(model):
    """Return what it gives after 60 tokens."""
    with torch.no_grad():
        return model(torch.arange(60)[None]).logits[0, -1]


plain = [logits(model_of("llama")), logits(model_of("qwen2"))]
given = [
    model_of("llama", factors=[1, 1, 1, 2, 4, 8, 8, 8]),
    model_of("qwen2", scaling=True),
]
print(f"transformers {transformers.__version__}, torch {torch.__version__}: a GGUF of")
changes = []
for what, before, model in zip(("Llama with rope_freqs.weight", "Qwen2 with YaRN"), plain, given):
    changes.append(float((logits(model) - before).abs().max()))
    kind = model.config.rope_parameters["rope_type"]
    print(f"    {what} has rope_type {kind!r}, and logits that differ by {changes[-1]:.3g} from one without")
stretched = transformers.AutoConfig.for_model(**given[1].config.to_dict())
stretched.rope_parameters = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0,
}
meant = transformers.AutoModelForCausalLM.from_config(stretched)
meant.load_state_dict(given[1].state_dict())
difference = float((logits(meant.eval()) - plain[1]).abs().max())
print(f"    with the YaRN that the file asks for, they differ by {difference:.3g}")
if changes == [0, 0] and difference > 0.01:
    print("what stretches positions is dropped")
else:
    print("this has changed")
    sys.exit(1)
PYTHON
