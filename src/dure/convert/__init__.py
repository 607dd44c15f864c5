"""Models on their way into a GGUF: from other formats, and from one tensor type to another.

Knows what a file of another format holds, and what a GGUF must say for it. Refuses to know machines, and
how a model is run.
"""
