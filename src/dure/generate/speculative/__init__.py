"""Speculative decoding: tokens guessed ahead, by prompt lookup or a draft model."""
