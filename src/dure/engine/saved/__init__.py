"""Sequences of the KV cache, saved as files."""
