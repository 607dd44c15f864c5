"""Conversations: from messages to a prompt, and from text back to messages and tool calls."""
