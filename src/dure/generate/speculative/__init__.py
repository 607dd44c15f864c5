"""Speculative decoding: draft tokens from prompt lookup or a draft model, which the model verifies."""
