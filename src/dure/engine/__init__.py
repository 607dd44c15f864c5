"""Run one step of a model: on one process, or on several ranks that sum in native code."""
