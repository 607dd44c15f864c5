"""`import dure`: models as objects of a Python program, and what `dure run` does the same way.

Knows what a program writes. Refuses to know terminals and HTTP.
"""
