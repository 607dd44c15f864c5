"""Conversations with a model: messages to a prompt, and the answer's text to content and tool calls."""
