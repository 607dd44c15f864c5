"""Machines become nodes over ssh."""
