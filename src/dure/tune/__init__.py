"""Tuning: makes a model answer as examples do, on the machine that has room for it.

Needs torch, transformers and peft, which are dure's extra `tune`: nothing outside of this package imports
them. Refuses to know a terminal.
"""
