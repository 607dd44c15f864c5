"""A model in other types: which type each tensor may have, what each costs, which are chosen, and the file.

Knows tensors, types and errors. Refuses to know machines: what a type costs in time is given to it.
"""
