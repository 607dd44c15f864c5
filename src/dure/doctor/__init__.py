"""Judges what an examination found: what is healthy, what slows a machine down, and what cures it.

Checks are pure: from a `Condition` to findings. What changes a machine is in `changes` alone.
"""
