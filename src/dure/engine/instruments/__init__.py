"""Measuring what an engine does: traces and speeds."""
