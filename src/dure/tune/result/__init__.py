"""From what tuning leaves to the boards: a GGUF, or an adapter's, that says what it was made of.

Imports no torch: what tuning leaves is a folder. Refuses to know how it was trained.
"""
