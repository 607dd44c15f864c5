"""Runs models to judge them, and to gather what choosing types needs.

Knows what is measured and what the figures mean. Refuses to know how a model is started: it is given
executors.
"""
