"""A provider of pods on this machine, for tests and for trying: RunPod's API v2 over HTTP, with its faults.

Money is counted and none is spent. Its clock can be moved forward.
"""
