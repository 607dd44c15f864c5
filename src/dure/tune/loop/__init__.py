"""Learns: steps, evaluation, checkpoints, and what becomes of a run that was stopped.

A run that is killed goes on with the same losses, bit by bit: what a step does depends on the seed and the
step, and on nothing that was left in memory.
"""
