#!/bin/sh
# transformers 5.24.0 adds no adapter: it asks for a peft that was not released when it was.
#
# `add_adapter` and what else concerns adapters check for peft 0.22.0 or newer; the newest peft beside it was 0.21.2,
# and neither package's requirements say that they do not fit, so `pip check` finds nothing. peft's own
# `inject_adapter_in_model`, which add_adapter calls after the check, works.
# So whoever installs the newest of both and adds a LoRA adapter through transformers gets a ValueError.
#
# Exits 0 while this is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2
"$folder/venv/bin/pip" check
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import peft
import torch
import transformers

shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
config = transformers.AutoConfig.for_model("llama", num_attention_heads=2, **shape)
lora = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
print(f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}:")
try:
    transformers.AutoModelForCausalLM.from_config(config).add_adapter(lora)
    refused = False
    print("    add_adapter: an adapter was added")
except ValueError as error:
    refused = True
    print(f"    add_adapter: {error}")
model = transformers.AutoModelForCausalLM.from_config(config)
peft.inject_adapter_in_model(lora, model)
learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
print(f"    inject_adapter_in_model: {learned} weights of an adapter learn")
if refused and learned:
    print("a model gets no adapter through transformers, and one through peft")
else:
    print("this has changed")
    sys.exit(1)
PYTHON
