"""One model, or a shard of one, in this process: llama.cpp and our native library."""
