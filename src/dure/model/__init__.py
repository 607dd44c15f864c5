"""What a GGUF is, and how it is cut."""
