"""Starts a model on machines: from a file and options to a running executor."""
