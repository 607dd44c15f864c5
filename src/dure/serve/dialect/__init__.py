"""What the APIs' dialects share: how an answer is sent, documented, timed and constrained.

Every dialect (`openai`, `responses`, `anthropic`, `ollama`) imports this package, and none of the others.
"""
