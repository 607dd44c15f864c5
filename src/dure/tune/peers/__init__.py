"""The processes of one run, one for each GPU: how they are started, and what they tell each other.

Refuses to know what they learn.
"""
