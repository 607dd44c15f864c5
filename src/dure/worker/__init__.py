"""Runs the engine in a process of its own, and restarts it with the requests that ran."""
